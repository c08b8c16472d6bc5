"""r1 completion bash|zsh: print the shell's code for tab completion; ~/.bashrc: eval "$(r1 completion bash)"."""

from __future__ import annotations

from r1.__main__ import COMMANDS
from r1.core.command import ArgumentParser, run_command

SCRIPTS = {  # the candidates are complete words; bash has split the last one at COMP_WORDBREAKS
    "bash": """_r1() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT}
    local word=${line##* }
    local cut=${word%"${word##*[=:@]}"}
    COMPREPLY=($(r1 completion query "$line" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -o nospace -o default -F _r1 r1
""",
    "zsh": """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_r1() {
    local -a candidates
    candidates=("${(@f)$(r1 completion query "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    candidates=(${candidates:#})
    (( $#candidates )) && compadd -Q -S '' -- "${candidates[@]}" || { compset -P '*='; _files; }
}
compdef _r1 r1
""",
}
RUN_FLAGS = ("--multirun", "--cfg job", "--config-dir", "--help", "--info")


def main() -> None:
    run_command(_main)


def _main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("shell", choices=[*SCRIPTS, "query"], help="query: the candidates of a LINE, for these scripts")
    parser.add_argument("line", nargs="?", metavar="LINE", help="a command line up to the cursor")
    args = parser.parse_args()
    lines = candidates(args.line or "") if args.shell == "query" else [SCRIPTS[args.shell].rstrip()]
    print("".join(f"{text}\n" for text in lines), end="")


def candidates(line: str) -> list[str]:
    """Complete words that may end a command line ``r1 ...``; none: names of files may."""
    *before, word = line.split(" ")
    words: tuple[str, ...] = ()
    match [text for text in before if text][1:]:
        case [] if before:
            words = COMMANDS
        case ["run", *_] if word.startswith("-"):
            words = RUN_FLAGS
        case ["run", *rest] | ["config", "explain", _, *rest]:
            return _overrides(rest, word)
        case ["config", "explain"]:
            return [text.replace("=", " ") for text in _overrides([], word)]
        case ["config"]:
            words = ("explain", "schema")
        case ["config", "schema"] | ["options"]:
            words = _references(with_options=before[1] == "options")
        case ["completion"]:
            words = tuple(SCRIPTS)
    return [f"{text} " for text in words if text.startswith(word)]


def _overrides(before: list[str], word: str) -> list[str]:
    from r1.config.completion import override_candidates

    return override_candidates([text for text in before if "=" in text or text.startswith("~")], word)


def _references(with_options: bool) -> tuple[str, ...]:
    from r1.config.reference.files import group_names, option_names

    groups = group_names()
    options = [f"{group}/{name}" for group in groups for name in option_names(group)] if with_options else []
    return tuple(sorted({*groups, *options, *(("trainer", "val") if with_options else ())}))


if __name__ == "__main__":
    main()
