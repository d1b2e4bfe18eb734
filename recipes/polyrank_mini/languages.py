"""Names of languages: the sources' own, in ISO 639-1 where that has a name. Knows no text."""

from __future__ import annotations

import re

# Each ISO 639-1 code with the ISO 639-3 codes that sources write in its place.
_CODES = """
ab abk; af afr; ak aka; am amh; ar arb ara; as asm; az aze azj; ba bak; be bel; bg bul
bm bam; bn ben; bo bod; br bre; bs bos; ca cat; cs ces; cv chv; cy cym; da dan; de deu
dv div; dz dzo; ee ewe; el ell; en eng; eo epo; es spa; et est; eu eus; fa fas pes; fi fin
fj fij; fo fao; fr fra; ga gle; gd gla; gl glg; gn grn; gu guj; ha hau; he heb; hi hin
hr hrv; ht hat; hu hun; hy hye; ia ina; id ind; ie ile; ig ibo; io ido; is isl; it ita
iu ike; ja jpn; jv jav; ka kat; kg kng; ki kik; kk kaz; km khm; kn kan; ko kor; ks kas
ku kur kmr; kw cor; ky kir; la lat; lb ltz; lg lug; li lim; ln lin; lo lao; lt lit
lv lav lvs; mg mlg plt; mi mri; mk mkd; ml mal; mn mon khk; mr mar; ms msa zsm; mt mlt
my mya; nd nde; ne nep npi; nl nld; nn nno; no nor nob nb; ny nya; oc oci; om orm gaz
or ory; pa pan; pl pol; ps pus pbt; pt por; qu quy; rm roh; rn run; ro ron; ru rus; rw kin
sa san; sc srd; sd snd; sg sag; sh hbs; si sin; sk slk; sl slv; sm smo; sn sna; so som
sq sqi als; sr srp; ss ssw; st sot; su sun; sv swe; sw swa swh; ta tam; te tel; tg tgk
th tha; ti tir; tk tuk; tl tgl fil; tn tsn; to ton; tr tur; ts tso; tt tat; tw twi; ty tah
ug uig; uk ukr; ur urd; uz uzb uzn; ve ven; vi vie; vo vol; wo wol; xh xho; yi yid ydd
yo yor; zh zho cmn; zu zul
"""
_SHORT = {
    name: entry.split()[0]
    for entry in _CODES.replace("\n", ";").split(";")
    for name in entry.split()[1:]
}
# Chinese is two languages here: the scripts share too few characters to stand for each other.
_TRADITIONAL = {"zh-Hant", "zh-HK", "zh-TW", "zho-TW"}
_MGTE = """
af ar az be bg bn ca ceb cs cy da de el en es et eu fa fi fr gl gu he hi hr ht hu hy id is
it ja jv ka kk km kn ko ky lo lt lv mk ml mn mr ms my ne nl no pa pl pt qu ro ru si sk sl so
sq sr sv sw ta te th tl tr uk ur vi yo zh
"""
_XLMR = "am as br bs eo fy ga gd ha ku la mg om or ps sa sd su ug uz xh yi"

MGTE = frozenset(_MGTE.split())
"""The 75 languages of mGTE (arXiv:2407.19669)."""
XLMR = frozenset(_XLMR.split())
"""Languages that XLM-RoBERTa's vocabulary was made from besides (arXiv:1911.02116)."""


def language(name: str) -> str:
    """A source's name in ISO 639-1, or else 639-3; numbers, regions and scripts are dropped.

    >>> language("deu2"), language("srp-Latn"), language("zho-TW"), language("arz")
    ('de', 'sr', 'zh-Hant', 'arz')
    """
    if name in _TRADITIONAL:
        return "zh-Hant"
    base = re.sub(r"\d+$", "", name.split("-")[0])
    return _SHORT.get(base, base)
