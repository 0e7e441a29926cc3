"""Odd configurations: read as they are meant, or refused by file, line and key; never a traceback or a hang."""

# ruff: noqa: E501 - one kind of odd input, one line
from __future__ import annotations

import collections
import copy
import random
from pathlib import Path
from typing import Any

import yaml
from tries import Tries

from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import dump_config, load_config, schema_rows
from mdl_physpretrain.workflow.folder import preflight
from mdl_physpretrain.workflow.plan import plan

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 10**12, 10**30,
    "", " ", "x", "none", "null", "auto", "demo", "1", "-1", "1e-3", "10%", "nan", "inf", "\0", "Å", "a" * 300, "../x",
    "/dev/null", "~", "[red]x[/]", "*", "**/*", "[", "{}", "load-atoms:no-such", "module:factory", "os:system", [], {},
    [0], [1, 2], ["demo"], [[]], [{}], {"a": 1}, {"": {}}, {"a": {"pretrain": False}}, [0, 0], [None], "cuda:99", "gpu",
]  # fmt: skip
LINES = [
    "a: &a [*a]", "data: &d {source: *d}", "x: &x {y: *x}", "arms: {NA: {}}", "arms: {nan: {}}", "arms: {md: {}}",
    "arms: {a: {}, a.rdf: {}}", "arms: {a: {}, a-rdf: {}}", "arms: {" + "b" * 230 + ": {}}", "arms: {a b: {}}",
    "name: '[bold]x[/bold]'", "name: 2024-13-45", "seeds: [2024-02-31]", "seeds: " + "9" * 5000, "md: {steps: 1e12}",
    "md: {skin: 1e9}", "md: {friction: 10}", "md: {friction: 3}", "backbone: {args: {cutoff: 1e6}}", "devices: abc",
    "backbone: {args: {cutoff: .inf}}", "backbone: {args: {cutoff: 200}}", "backbone: {args: {gc_count: 1000000000}}",
    "backbone: {args: {dim1: 1000000000}}", "backbone: {name: torchmd_et, args: {num_layers: 100000000}}", "devices: 0",
    "devices: 1000", "strategy: no-such", "accelerator: tpu", "device: gpu", "teacher: {n_basis: 1000000000}",
    "inherits: [x.yaml, x.yaml]", "inherits: self.yaml", "inherits: 3", "inherits: [[a]]", "? [1, 2]\n: 3", "!!python/name:os.system",
    "%YAML 9.9\n---\n{}", "--- a\n--- b", "\t- x", "{", "]", "a: b: c", "'", "- 1", "3", "null", "&a", "*a", "<<: 1",
    "<<: [1]", "<<: {<<: {}}", "data: {<<: &a {source: demo}}", "\ufeffdata: {source: demo}", "data: {source: demo}\x00",
]  # fmt: skip
BASE = {"data": {"source": "demo"}, "seeds": [0]}


def changed(generator: random.Random) -> dict[str, Any]:
    """The base with one to three options set to odd values, at the places options have or near them."""
    content: dict[str, Any] = copy.deepcopy(BASE)
    keys = [row[0].replace("<name>", generator.choice(["a", "pretrained", "b.c"])) for row in schema_rows()]
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        place = generator.choice(keys).split(".")
        if generator.random() < 0.15:
            place.insert(generator.randrange(len(place) + 1), generator.choice(["x", "data", "", "md"]))
        inner: Any = content
        for name in place[:-1]:
            if not isinstance(inner.get(name), dict):
                inner[name] = {}
            inner = inner[name]
        inner[place[-1]] = copy.deepcopy(generator.choice(VALUES))
    return content


def garbled(text: str, generator: random.Random) -> str:
    """A text with some characters lost, doubled, or of another kind; or with lines from elsewhere."""
    for _ in range(generator.choice([1, 1, 2, 5])):
        place = generator.randrange(len(text) + 1)
        change = generator.randrange(5)
        if change == 0:
            text = text[:place] + text[place + generator.randrange(1, 9) :]
        elif change == 1:
            text = text[:place] + generator.choice("{}[]:,'\"&*!|>%@`#-?\t\n\\ ") + text[place:]
        elif change == 2:
            lines = text.split("\n")
            lines.insert(generator.randrange(len(lines) + 1), generator.choice(lines + LINES))
            text = "\n".join(lines)
        elif change == 3:
            text = text[:place]
        else:
            lines = text.split("\n")
            generator.shuffle(lines)
            text = "\n".join(lines)
    return text


def bombs(folder: Path) -> list[str]:
    """Texts that grow or go deep."""
    aliases = "a: &a [1, 1]\n" + "".join(
        f"{y}: &{y} [*{x}, *{x}]\n" for x, y in zip("abcdefghijklmnopqrstuvwx", "bcdefghijklmnopqrstuvwxy", strict=True)
    )
    deep = "data: " + "[" * 5000 + "]" * 5000
    chain = "l0: &l0 [1]\n" + "".join(f"l{k}: &l{k} [*l{k - 1}]\n" for k in range(1, 3000))
    mappings = "\n".join("  " * k + "a:" for k in range(600))
    for k in range(40):
        below = "data: {source: demo}" if k == 39 else f"inherits: [i{k + 1}.yaml, i{k + 1}.yaml]"
        (folder / f"i{k}.yaml").write_text(below)
    (folder / "self.yaml").write_text("inherits: self.yaml")
    for k in range(200):
        (folder / f"j{k}.yaml").write_text(f"inherits: j{k + 1}.yaml")
    return [aliases, deep, chain, mappings, "inherits: i0.yaml", "inherits: j0.yaml", "{" * 3000, "a: " * 3000]


def run(n: int, folder: Path, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """Try ``n`` changed and ``n`` garbled configurations, every line above, and what grows."""
    generator, tries = random.Random(seed), Tries()
    texts = [f"{yaml.safe_dump(BASE)}{line}\n" for line in LINES] + LINES + bombs(folder)
    texts += [yaml.safe_dump(changed(generator)) for _ in range(n)]
    whole = dump_config(RunConfig.model_validate(BASE))
    texts += [garbled(whole, generator) for _ in range(n)]
    file = folder / "config.yaml"
    for number, text in enumerate(texts):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        config = tries.attempt(repr(text[:200]), lambda: load_config(file))
        if config is not None and (number < len(texts) - 2 * n or number % 4 == 0):
            tries.attempt(f"before the work: {text[:200]!r}", lambda config=config: (preflight(config), plan(config)))
    for _ in range(n // 4):
        words = [f"{generator.choice(['md.steps', 'x', 'data.source', 'arms.a', '', 'md', 'seeds'])}="
                 f"{generator.choice(VALUES)}" for _ in range(generator.randrange(1, 4))]  # fmt: skip
        file.write_text(yaml.safe_dump(BASE))
        tries.attempt(repr(words), lambda words=words: load_config(file, words))
    return tries.outcome
