"""r1 options [GROUP[/OPTION]]: groups, options, and keys with type, range, default and meaning."""

from __future__ import annotations

from r1.core.command import ArgumentParser, run_command


def main() -> None:
    run_command(_main)


def _main() -> None:
    from r1.config.reference.text import reference, show

    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "name", nargs="?", metavar="GROUP[/OPTION]", help="stage, stage/grpo, trainer, val; none: all groups"
    )
    show(reference(parser.parse_args().name))


if __name__ == "__main__":
    main()
