"""Sentences and words of Chinese and English text (and of whatever else writes words with letters).

Chinese words are cut by jieba where it is installed, else into overlapping pairs of characters, which search as well
and read worse. Letters of other scripts are taken as words between everything that is no letter.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

_SENTENCE = re.compile(r"(?:[^。！？!?.…\n]|\.(?=[^\s\"')”’]))*(?:[。！？!?…]+[”’」』）)\"']*|\.+[\"')”’]*|\n+|$)")
_RUN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
_HAN_FIRST = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

STOP_WORDS = frozenset(
    """
    a about above after again against all also am an and any are as at away be because been before being below
    between both but by can cannot could did do does doing don't down during each even ever every few for from
    further get go had has have having he her here hers herself him himself his how i i'm if in into is it it's
    its itself just let like made make many may me might more most much must my myself never no nor not now of
    off oh on once one only or other our ours out over own said same say says see shall she should since so some
    such than that that's the their theirs them then there these they thing things this those though through
    thus till to too two under until unto up upon us very was we well went were what when where which while who
    whom why will with within without would yet you your yours thee thou thy thine hath doth art tis o
    的 了 在 是 我 有 和 就 不 人 都 一 一个 上 也 很 到 说 要 去 你 会 着 没有 看 好 自己
    这 他 她 它 们 我们 他们 她们 你们 那 那个 这个 什么 怎么 与 及 或 而 但 但是 因为 所以
    如果 还 还是 只 只是 又 被 把 从 对 对于 于 之 其 以 为 所 者 乎 矣 也 兮 则 乃 且 若
    何 此 无 来 中 下 里 时 时候 可以 能 能够 可 再 却 更 最 已 已经 并 并且 等 让 给 向 将
    地 得 过 吗 呢 吧 啊 呀 个 些 这些 那些 一些 这样 那样 一种 没 不是 就是 不能 不会
    """.split()
)


@functools.cache
def cuts_words() -> bool:
    """Whether jieba is installed, so that Chinese is cut into words."""
    return importlib.util.find_spec("jieba") is not None


@functools.cache
def _cutter() -> Any:
    import jieba

    cutter = jieba.Tokenizer()
    # initialize() trusts a marshal file of fixed name in the shared temporary folder: the dictionary is read here
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter


def words(text: str) -> list[str]:
    """The words of ``text`` in order, case-folded; numbers count as words, punctuation does not."""
    found: list[str] = []
    for run in _RUN.findall(text):
        if not _HAN_FIRST.match(run):
            found.append(run.casefold().replace("’", "'"))
        elif cuts_words():
            found += _cutter().cut(run)
        elif len(run) == 1:
            found.append(run)
        else:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
    return found


def content_words(text: str) -> list[str]:
    """The words that carry meaning: no stop words, no numbers, no single letters; single Chinese characters only
    without jieba."""
    keep = []
    for word in words(text):
        if word in STOP_WORDS or word.isdigit():
            continue
        if len(word) > 1 and not (len(word) == 2 and word.isascii()):
            keep.append(word)
    return keep


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence or line, without the white space around it; offsets in characters."""
    for found in _SENTENCE.finditer(text):
        part = found.group()
        bare = part.strip()
        if bare:
            start = found.start() + len(part) - len(part.lstrip())
            yield start, start + len(bare)
