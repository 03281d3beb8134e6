"""Formulas as MathML, which browsers set without any script."""

from collections.abc import Mapping

from thalweg.lab.lesson.page.terms import GRADIENT, STEP, Formula, Term

LETTERS: Mapping[str, tuple[str, str]] = {
    "lr": ("&gamma;", ""),
    "momentum": ("&mu;", ""),
    "betas.0": ("&beta;", "1"),
    "betas.1": ("&beta;", "2"),
    "eps": ("&epsi;", ""),
    "alpha": ("&alpha;", ""),
    "exp_avg": ("m", ""),
    "exp_avg_sq": ("v", ""),
    "square_avg": ("v", ""),
    "momentum_buffer": ("b", ""),
}
"""What names of the code are in print, each a letter and its index."""

MINUS = "<mo>&minus;</mo>"

OPEN, CLOSE = (f'<mo stretchy="false">{sign}</mo>' for sign in "()")

LOOSE, TIGHT, TIGHTEST = 1, 2, 3
"""How firmly a sum, a product and a power hold together."""

BINDS: Mapping[str, int] = {"add": LOOSE, "sub": LOOSE, "neg": LOOSE, "mul": TIGHT, "pow": TIGHTEST}


def typeset(formula: Formula) -> str:
    """A step's formula line by line: the slots, what they are corrected to, then the parameter p."""
    slots = {id(one): _at(LETTERS[name][0], now=True) for name, one in formula.slots.items()}
    lines = [
        f"{slots[id(one)]}<mo>=</mo>{_set(one, {i: text for i, text in slots.items() if i != id(one)})}"
        for one in formula.slots.values()
    ]
    corrected = {
        id(one): _at(f"{LETTERS[name][0]}^", now=True)
        for name, slot in formula.slots.items()
        for one in _divided(formula.step, slot)
    }
    lines += [
        f"{corrected[id(one)]}<mo>=</mo>{_set(one, slots)}"
        for slot in formula.slots.values()
        for one in _divided(formula.step, slot)
    ]
    step = _set(formula.step, slots | corrected, TIGHT)
    lines.append(f"{_at('p', now=True)}<mo>=</mo>{_at('p')}{MINUS}{step}")
    return "".join(f'<div class="formula"><math display="block">{line}</math></div>' for line in lines)


def _divided(one: Term, slot: Term) -> list[Term]:
    """The quotients in a formula in which a slot is divided by what depends on the step alone."""
    if one is slot or one.kind in ("name", "number"):
        return []
    if one.kind == "div" and one.of[0] is slot and not _holds_slot(one.of[1]):
        return [one]
    return [found for part in one.of for found in _divided(part, slot)]


def _holds_slot(one: Term) -> bool:
    if one.kind in ("name", "number"):
        return one.kind == "name" and (one.of[0] == GRADIENT or LETTERS.get(one.of[0], ("", ""))[0] in SLOTS)
    return any(map(_holds_slot, one.of))


def symbols(formula: Formula) -> dict[str, str]:
    """The names of the code that appear in a formula, each with its letter as HTML."""
    found: dict[str, str] = {}
    for one in (*formula.slots.values(), formula.step):
        _collect(one, found)
    return found


def _collect(one: Term, found: dict[str, str]) -> None:
    if one.kind == "name":
        if one.of[0] in LETTERS:
            found.setdefault(one.of[0], f"<math>{_letter(one.of[0])}</math>")
    elif one.kind != "number":
        for part in one.of:
            _collect(part, found)


def _set(one: Term, names: Mapping[int, str], outer: int = 0) -> str:
    if id(one) in names:
        return names[id(one)]
    text = _plain(one, names)
    return f"<mrow>{OPEN}{text}{CLOSE}</mrow>" if BINDS.get(one.kind, 9) < outer else text


def _plain(one: Term, names: Mapping[int, str]) -> str:
    of = one.of
    if one.kind == "name":
        return _name(of[0])
    if one.kind == "number":
        return f"<mn>{of[0]:g}</mn>"
    if one.kind in ("add", "sub"):
        sign, right = ("+", LOOSE) if one.kind == "add" else ("&minus;", TIGHT)
        return f"{_set(of[0], names, LOOSE)}<mo>{sign}</mo>{_set(of[1], names, right)}"
    if one.kind == "mul":
        # A thin space where no sign stands.
        return f'{_set(of[0], names, TIGHT)}<mspace width="0.17em"/>{_set(of[1], names, TIGHT)}'
    if one.kind == "div":
        # A fraction in a fraction is as large as any.
        row = '<mrow displaystyle="true" scriptlevel="0">'
        return f"<mfrac>{row}{_set(of[0], names)}</mrow>{row}{_set(of[1], names)}</mrow></mfrac>"
    if one.kind == "pow":
        return _power(one, names)
    if one.kind == "sqrt":
        return f"<msqrt><mrow>{_set(of[0], names)}</mrow></msqrt>"
    if one.kind == "neg":
        return f"{MINUS}{_set(of[0], names, TIGHT)}"
    assert one.kind == "max", one.kind
    return f"<mi>max</mi>{OPEN}{_set(of[0], names)}<mo>,</mo>{_set(of[1], names)}{CLOSE}"


def _power(one: Term, names: Mapping[int, str]) -> str:
    """A power; the index of what is raised stands below the exponent."""
    base, exponent = one.of[0], f"<mrow>{_set(one.of[1], names)}</mrow>"
    letter, index = LETTERS.get(base.of[0], ("", "")) if base.kind == "name" else ("", "")
    if index:
        return f"<msubsup><mi>{letter}</mi><mn>{index}</mn>{exponent}</msubsup>"
    if base.kind == "name" and base.of[0] == GRADIENT:
        return f"<msubsup><mi>g</mi><mi>t</mi>{exponent}</msubsup>"
    return f"<msup><mrow>{_set(base, names, TIGHTEST)}</mrow>{exponent}</msup>"


SLOTS = ("m", "v", "b")
"""Letters of what is kept from step to step."""


def _name(name: str) -> str:
    if name == STEP:
        return "<mi>t</mi>"
    if name == GRADIENT:
        return _at("g", now=True)
    letter, _ = LETTERS[name]
    return _at(letter) if letter in SLOTS else _letter(name)


def _letter(name: str) -> str:
    letter, index = LETTERS[name]
    return f"<msub><mi>{letter}</mi><mn>{index}</mn></msub>" if index else f"<mi>{letter}</mi>"


def _at(letter: str, *, now: bool = False) -> str:
    """A letter, hatted where a hat follows it, and the step it belongs to: this one, or the one before."""
    when = "<mi>t</mi>" if now else f"<mrow><mi>t</mi>{MINUS}<mn>1</mn></mrow>"
    base = (
        f'<mover accent="true"><mi>{letter[0]}</mi><mo>^</mo></mover>' if letter[1:] else f"<mi>{letter}</mi>"
    )
    return f"<msub>{base}{when}</msub>"
