"""Plain-text equations of the rule files, as LaTeX for MathJax."""

from __future__ import annotations

import re
from collections.abc import Collection

SYMBOLS = {
    "lr": r"\eta",
    "beta1": r"\beta_1",
    "beta2": r"\beta_2",
    "beta3": r"\beta_3",
    "eps": r"\varepsilon",
    "eps_root": r"\varepsilon_{\mathrm{root}}",
    "alpha": r"\alpha",
    "gamma": r"\gamma",
    "mu": r"\mu",
    "lambd": r"\lambda",
    "weight_decay": r"\lambda",
    "momentum": r"\mu",
    "decay_rate": r"\rho",
    "eta_plus": r"\eta^{+}",
    "eta_minus": r"\eta^{-}",
    "dampening": r"\tau",
    "t0": "t_0",
    "trust_coefficient": r"\kappa",
}
FUNCTIONS = {"max": r"\max", "min": r"\min", "sign": r"\operatorname{sign}", "clip": r"\operatorname{clip}"}
ENGLISH = {"root"}  # scalars whose names are words of the texts beside equations
TOKEN = re.compile(r"\s*(\d+\.?\d*|[A-Za-z]\w*?(?:_\{[^}]*\}|_t(?![A-Za-z0-9_])|_1(?=\W|$))|[A-Za-z]\w*|\S)")


class _Parser:
    """Recursive descent over one line; English words become text."""

    def __init__(self, line: str, symbols: Collection[str], bars: str) -> None:
        self.tokens, self.at, self.symbols, self.bars = TOKEN.findall(line), 0, symbols, bars
        self.used: list[str] = []

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return str(self.tokens[self.at - 1])

    def expression(self, end: str = "") -> str:
        parts = []
        while self.peek() not in ("", end):
            token = self.peek()
            if token in "+-=<>,":
                self.take()
                parts.append(token + " " if token != "," else r",\; ")
            else:
                parts.append(self.term(end))
        return "".join(parts).strip()

    def term(self, end: str) -> str:
        parts: list[str] = []
        product: list[str] = []
        while (token := self.peek()) not in ("", end, *"+-=<>,)"):
            if token == "/":
                self.take()
                above = _bare(product[0]) if len(product) == 1 else r" \, ".join(product)
                product = [rf"\frac{{{above}}}{{{_bare(self.factor())}}}"]
            elif self.is_word(token):
                words = []
                while self.is_word(self.peek()):
                    words.append(self.take())
                parts += [*product, rf"\;\text{{ {' '.join(words)} }}"]
                product = []
            else:
                product.append(self.factor())
        return r" \, ".join([*parts, *product]) + " "

    def factor(self) -> str:
        base = self.atom()
        if self.peek() == "^":
            self.take()
            base = f"{base}^{{{_bare(self.atom())}}}"
        return base

    def atom(self) -> str:
        token = self.take()
        if token == "(":
            inner = self.expression(")")
            self.take()
            return rf"\left({inner}\right)"
        if token == "|":
            inner = self.expression("|")
            self.take()
            return self.bars.format(inner)
        if self.peek() == "(" and token == "sqrt":
            self.take()
            inner = self.expression(")")
            self.take()
            return rf"\sqrt{{{inner}}}"
        if token in FUNCTIONS:
            return FUNCTIONS[token] + self.atom()
        return self.symbol(token)

    def symbol(self, token: str) -> str:
        match = re.fullmatch(r"([A-Za-z]\w*?)_(\{.*\}|t|1)", token)
        base, index = (match[1], match[2].strip("{}")) if match and token not in self.symbols else (token, "")
        below = f"_{{{index}}}" if index else ""
        if base in SYMBOLS:
            self.used.append(base)
            return f"{{{SYMBOLS[base]}}}{below}"
        if base.endswith("_hat"):
            return rf"\hat{{{base.removesuffix('_hat')}}}{below}"
        if base.endswith("_max"):
            return rf"{base.removesuffix('_max')}^{{\max}}{below}"
        if len(base) > 1 and base[0].isalpha():
            self.used.append(base)
            base = rf"\mathrm{{{base.replace('_', chr(92) + '_')}}}"
        return base + below

    def is_word(self, token: str) -> bool:
        known = token in SYMBOLS or token in FUNCTIONS or token in self.symbols or token == "sqrt"
        return bool(re.fullmatch(r"[A-Za-z]{2,}", token)) and not known


def _bare(text: str) -> str:
    """Without parentheses around the whole, which a fraction does not need."""
    if not (text.startswith(r"\left(") and text.endswith(r"\right)")):
        return text
    depth = 0
    for match in re.finditer(r"\\(left|right)\b", text):
        depth += 1 if match[1] == "left" else -1
        if depth == 0:
            return text[6:-7] if match.end() == len(text) - 1 else text
    return text


def equations(lines: Collection[str], symbols: Collection[str]) -> tuple[str, list[str]]:
    """An aligned block of LaTeX, and the names of settings and scalars in it, in their order."""
    bars = r"\lVert {} \rVert" if "norm" in " ".join(lines) else r"\lvert {} \rvert"
    rows, used = [], []
    for line in lines:
        parser = _Parser(re.sub(r"(?<=\S)  +", " ", line), {*symbols} - ENGLISH, bars)
        rows.append(parser.expression().replace("= ", "&= ", 1))
        used += parser.used
    body = " \\\\\n".join(rows)
    return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}", list(dict.fromkeys(used))
