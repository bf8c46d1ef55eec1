import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secbatch.sources.sentences import split_sentences


def sentences(text):
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    "sentence",
    [
        "They used e.g. Emotet, i.e. the Loader v1.2.3 from evil[.]com or hxxp://bad[.]example/x?a=1.",
        r"It ran C:\Windows\System32\cmd.exe and C:\Program Files\x.exe /q under T1059.001 on 8[.]8[.]8[.]8.",
        "See Fig. 3, No. 5 and Sec. 2.1 of the report by Acme Inc. of the U.S. Department of Justice.",
        "Version 10.0.19041.1 of www.example.com uses .NET and Node.js vs. Java.",
        "It was seen on Apr. 2, 2022 by J. R. Smith et al. (2020), approx. 5 p.m. UTC.",
        "APT29 (aka Cozy Bear, a.k.a. Nobelium, cf. Dr. No) used CVE-2021-44228.",
        "Figure 1. Loading process of the malware",
        "1. Install the service",
        "The file was small… very small.",
        "The host reached 1.2.3.4:443 and asked: who are you?",
        "Hosts were renamed by the malware (e.g. Srv01) and then etc. again.",
        "It dropped files, e.g. svchost.exe, and then… cmd.exe ran.",
    ],
)
def test_stays_whole(sentence):
    assert sentences(sentence) == [sentence]
    assert sentences(f"Before it. {sentence}\n\nAfter it.")[1] == sentence


@pytest.mark.parametrize(
    "parts",
    [
        ["It dropped cmd.exe.", "Then it ran."],
        ["It reached evil[.]com.", "The end."],
        ['He said "Stop."', "Then he left."],
        ["(See Fig. 3.)", "The next one."],
        ["Really?!", "Yes!", "Good…", "And so on.[1]", "The end."],
        ["They sold it to Acme Inc.", "The firm was in the U.S.", "It closed."],
        ["The file was dropped.", "svchost.exe then ran."],
        ["No.", "The attacker left."],
        ["This is T1059.001.", "This is v1.2.3.", "5 hosts replied."],
        ["The <mask> ran.", "<mask> was seen."],
        ["攻击者使用了恶意软件。", "然后他们离开了！"],
    ],
)
def test_breaks(parts):
    assert sentences(" ".join(parts)) == parts


@pytest.mark.parametrize(
    "line",
    [
        "These are its tools:",
        "It ran on the host!",
        "And so on and on…",
        "Its tools were",
        "net user admin secret /add",
        "x = y and then z",
    ],
)
def test_a_line_that_ends_or_is_a_heading(line):
    assert sentences(f"{line}\nthe loader ran on it") == [line, "the loader ran on it"]


def test_a_line_that_ends_in_a_small_word_goes_on():
    sentence = "The group used some tools of\nAPT29 and it stayed."
    assert sentences(sentence) == [sentence]
    assert sentences("The group used some tools\nAPT29 stayed.") == ["The group used some tools", "APT29 stayed."]


def test_a_missing_space_before_a_starter():
    assert sentences("They ran a campaign.The group left.") == ["They ran a campaign.", "The group left."]
    assert sentences("Uses System.Management and ASP.Net code.") == ["Uses System.Management and ASP.Net code."]


@pytest.mark.parametrize("text", ["It is shown in Fig. (", 'Released in vol. "', "x no. *", "It ran.\n\nSee Sec. [("])
def test_a_text_that_breaks_off_behind_an_opening_bracket_or_quote(text):
    before, space, opening = text.rpartition(" ")
    assert space and sentences(text)[-1] == opening
    assert sentences(text)[:-1] == sentences(before)


def test_lines_of_real_reports():
    text = (
        "title: A report\nurl: https://example.com/a\n\nIntroduction\n"
        "The loader ran as a service and then it waited for commands from its server, which were\n"
        "encrypted with a key that Microsoft has since revoked. It asked for the\nname of the host.\n"
        "Key findings:\n- The first item\n- The second item. It goes on.\n\u2022 Third\n"
        "net user /domain\nnet localgroup administrators\n"
    )
    assert sentences(text) == [
        "title: A report",
        "url: https://example.com/a",
        "Introduction",
        "The loader ran as a service and then it waited for commands from its server, which were\n"
        "encrypted with a key that Microsoft has since revoked.",
        "It asked for the\nname of the host.",
        "Key findings:",
        "- The first item",
        "- The second item.",
        "It goes on.",
        "\u2022 Third",
        "net user /domain",
        "net localgroup administrators",
    ]


def without_white_space(text):
    return "".join(text.replace("\u200b", "").replace("\ufeff", "").split())


@given(st.text(st.sampled_from(list(".!?… \n\r\tAbc1-<\"')[]。\u00a0\u2028\u2003\u200b\ufeffé😀")), max_size=80))
@example("It is shown in Fig. (")
@example("\u200b\u2003\u200bIt ran.")  # of these three, Python takes the one in the middle for white space
def test_offsets_cover_all_but_white_space(text):
    last = 0
    for start, end in split_sentences(text):
        assert last <= start < end <= len(text)
        assert not without_white_space(text[last:start])
        assert without_white_space(text[start]) and without_white_space(text[end - 1])
        last = end
    assert not without_white_space(text[last:])


@pytest.mark.parametrize(
    "text",
    ["." * 300_000, ".)" * 200_000 + " A", " " * 500_000 + "A", "\n" * 100_000, "x" * 500_000 + ". A", ".[1]" * 90_000],
)
def test_hostile_text_takes_linear_time(text):
    start = time.perf_counter()
    split_sentences(text)
    assert time.perf_counter() - start < 5
