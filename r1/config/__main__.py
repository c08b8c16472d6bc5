"""r1 config explain KEY|schema: where a value comes from and what reads it; JSON schemas for editors."""

from __future__ import annotations

import json
from argparse import REMAINDER

from r1.core.command import ArgumentParser, run_command

EPILOG = """explain KEY [OVERRIDE...]: of the config that `r1 run OVERRIDE...` composes. schema [GROUP]: for the files
of a group such as stage or data/template, else for experiments and composed configs. In an editor with
yaml-language-server the line `# yaml-language-server: $schema=FILE` at the top of a YAML file uses it."""


def main() -> None:
    run_command(_main)


def _main() -> None:
    parser = ArgumentParser(__doc__, EPILOG)
    parser.add_argument("command", choices=["explain", "schema"])
    parser.add_argument("arguments", nargs=REMAINDER, metavar="KEY [OVERRIDE...] | [GROUP]")
    args = parser.parse_args()
    if args.command == "schema":
        from r1.config.reference.json_schema import json_schema

        if len(args.arguments) > 1:
            parser.error("schema takes one GROUP")
        print(json.dumps(json_schema(*args.arguments), indent=2))
        return
    if not args.arguments:
        parser.error("explain needs a KEY")
    from r1.config.reference.explain import explain

    for label, text in explain(args.arguments[0], args.arguments[1:]):
        print(f"  {label:8}  {text}" if label else text)


if __name__ == "__main__":
    main()
