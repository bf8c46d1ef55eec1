"""Documents to sentences by rules made for threat reports: versions, defanged addresses, paths, technique ids.

Candidates are full stops, question and exclamation marks that white space follows; the rules below say which
of them end a sentence. Offsets are Python string offsets (code points).
"""

import re

from secbatch.sources.sentence_lines import LIST_ITEM, segments, trimmed

# It starts with one set of characters, which is what makes the scan fast. A run of marks is a candidate only
# from its start, and possessively: no quadratic time on a megabyte of dots.
CANDIDATE = re.compile(
    r"[.!?…。！？](?:"
    r"(?<=[。！？])[。！？]*+[”’」』）]*+"
    r"|(?<![.!?…].)[.!?…]*+(?:[\"'”’»)\]}*_]|\[\d{1,3}\])*+(?=\s)"
    r"|(?<=[a-z]{2}[.!?])[\"”)]?(?=(?:The|This|These|Those|It|In|We|He|They|However|When|After|As|If)\s)"
    r")",
    re.S,
)
LAST_WORD = re.compile(r"\S+$")
FIRST_WORD = re.compile(r"[^\W\d_]+")
DOTTED = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
TOKEN = 40  # characters before a candidate that are looked at


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEVER_LAST = _words(
    """
    e.g i.e eg ie cf vs viz resp approx aka a.k.a incl esp ca mr mrs ms dr prof st gen col sgt lt capt
    gov sen rep hon rev messrs dept
    """
)
# These go with the number or label after them: "Fig. 3", "No. 5", "Apr. 2, 2022".
BEFORE_NUMBER = _words(
    """
    fig figs no nos p pp vol ver v sec sect ch chap eq ref refs tab art app ex para cl build ed jan feb
    mar apr jun jul aug sep sept oct nov dec
    """
)
# These stand in the middle of sentences and at their ends.
EITHER = _words(
    """
    inc ltd corp co llc jr sr bros plc gmbh etc al u.s u.k u.n e.u u.s.a u.a.e d.c ph.d a.m p.m
    """
)
STARTERS = _words(
    """
    the this these those it its in on at we our he she they their there here however when while after
    before as if once since although though because for from by with to an a additionally furthermore
    moreover meanwhile finally first second third next then later also both each all some many most
    several other another one two three such upon during according based using given following like
    unlike what why how who where which you your i any no not note see instead despite further today now
    """
)
LABEL = re.compile(r"(?:figure|fig|table|listing|appendix|exhibit|image|step|chapter|section)\.?\s*[\w.-]{1,6}", re.I)
OPENERS = "\"'“‘«([{*_<`"
FILE_NAME = re.compile(
    r"[\w-]+\.(?:exe|dll|sys|ps1|bat|cmd|vbs|js|jse|hta|lnk|docx?|xlsx?|py|sh|so|jar|zip|php|dat|bin)\b"
)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in `text`, in order; together they hold every character but white space."""
    sentences = []
    for start, end in segments(text):
        begin = start
        for candidate in CANDIDATE.finditer(text, start, end):
            stop = candidate.end()
            if stop >= end:
                break
            if _ends_sentence(text, begin, candidate.start(), stop, end):
                left, right = trimmed(text, begin, stop)
                if left < right:
                    sentences.append((left, right))
                begin = _after_spaces(text, stop, end)
        left, right = trimmed(text, begin, end)
        if left < right:
            sentences.append((left, right))
    return sentences


def _ends_sentence(text: str, begin: int, mark: int, stop: int, end: int) -> bool:
    """Whether the punctuation at text[mark:stop] ends the sentence that started at `begin`."""
    after = _after_spaces(text, stop, end)
    if after >= end or text[mark] in "。！？":
        return True
    if after == stop:  # no space after the full stop, but a word that starts sentences
        return True
    following = text[after]
    opened = after
    while opened < end and text[opened] in OPENERS:
        opened += 1
    first = text[opened] if opened < end else following
    token = _token_before(text, begin, mark)
    if first.islower() and not text.startswith("<mask>", after):
        return _lower_case_start(text, opened, end, mark, token)
    if text[mark] != "." or text[mark + 1 : mark + 2] == ".":
        return True
    return _full_stop_ends(text, begin, mark, opened, end, token)


def _after_spaces(text: str, place: int, end: int) -> int:
    if place + 1 < end and text[place] == " " and not text[place + 1].isspace():
        return place + 1
    while place < end and text[place].isspace():
        place += 1
    return place


def _token_before(text: str, begin: int, mark: int) -> str:
    """The word before the punctuation, without opening brackets and quotes."""
    word = LAST_WORD.search(text, max(begin, mark - TOKEN), mark)
    return word[0].lstrip(OPENERS + "/") if word else ""


def _lower_case_start(text: str, after: int, end: int, mark: int, token: str) -> bool:
    """A sentence starts with a small letter only where a file's name does: "… was dropped. svchost.exe then …"."""
    if text[mark] != "." or token.lower() in NEVER_LAST | EITHER | BEFORE_NUMBER:
        return False
    return len(token) > 2 and FILE_NAME.match(text, after, end) is not None


def _full_stop_ends(text: str, begin: int, mark: int, after: int, end: int, token: str) -> bool:
    plain = token.lower()
    word = FIRST_WORD.match(text, after, min(end, after + TOKEN))
    starter = word is not None and word[0].lower() in STARTERS
    if plain in NEVER_LAST:
        return False
    if plain in BEFORE_NUMBER:
        return not text[after : after + 1].isdigit()  # nothing, where a bracket or a quote ends the text
    if plain in EITHER:
        return starter or plain == "etc"
    if len(token) == 1 and token.isalpha() and token.isupper():  # an initial: "J. Smith"
        return starter
    if DOTTED.fullmatch(token):  # an unknown abbreviation with dots
        return starter
    if mark - begin < 20 and LABEL.fullmatch(text, begin, mark):  # "Figure 3. Loading process"
        return False
    # "1. Install": the number of a list item goes with the item.
    return not (mark - begin < 5 and LIST_ITEM.match(text, begin, mark + 2))
