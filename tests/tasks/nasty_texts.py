"""Texts that offsets and words go wrong on."""

NASTY = [
    "Emotet steals tokens from C:\\Windows\\evil.dll over TCP/443.",
    "  leading and  double   spaces ",
    " one space before",
    "tabs\tand\nnew lines\r\nand\u00a0no-break spaces",
    "na\u0131\u0308ve fac\u0327ade, e\u0301vil caf\u00e9",  # combining marks
    "Москва и 北京 وهذا نص",
    "emoji 🙂 and 👩\u200d💻 family",
    "🙂🙂 🙂",
    "𝕸𝖆𝖑𝖜𝖆𝖗𝖊 in fraktur",
    'punctuation:(CVE-2021-44228),"quoted" [evil].com!!!',
    "UPPER lower MiXeD 007",
    "ﬁ ligatures ½ ǅ İstanbul",
    "x",
    ".",
    "a\u0300\u0301\u0302b zero\u200bwidth \ufeffbom",
    "unknown ☃ words ☃☃ and ☃x",
]
