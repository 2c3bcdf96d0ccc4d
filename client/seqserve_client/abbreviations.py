"""What a full stop may stand behind without ending a sentence, by language; for ``sentences``.

Four lists for each language, in lower case and without the last full stop; a word is in one of them at most:

=========  ==============================================  ============================================
``never``  titles and the like: something always follows   "Dr. Smith", "z.B. hier"
``number`` they announce a number; else they are words     "No. 5", but "Did he? No."
``rarely`` a sentence may end with them                    "at 5 p.m. He left.", "in the U.S. Army"
``opens``  words that open sentences, and are no names     behind ``rarely`` and initials: a new sentence
=========  ==============================================  ============================================

A word that is an ordinary one too is left out, unless it ends hardly any sentence.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Abbreviations:
    """Those of one language; ``ordinals`` is whether a number and a full stop is a word: "am 3. Oktober"."""

    never: frozenset[str]
    number: frozenset[str]
    rarely: frozenset[str]
    opens: frozenset[str]
    ordinals: bool = False


def _language(
    never: str, number: str = "", rarely: str = "", opens: str = "", *, ordinals: bool = False
) -> Abbreviations:
    never_, number_, rarely_, opens_ = (frozenset(words.split()) for words in (never, number, rarely, opens))
    return Abbreviations(never_, number_, rarely_, opens_, ordinals)


BY_LANGUAGE = {
    "en": _language(
        "dr mr mrs ms messrs prof rev hon st mt ft capt cpt col gen lt maj sgt cmdr adm gov sen rep pres supt e.g "
        "i.e eg ie cf viz vs v.s approx ca resp incl excl al dept ext tel attn",
        "no nos p pp fig figs eq eqs sec ch chap vol vols art para pt ver est jan feb mar apr jun jul aug sep "
        "sept oct nov dec",
        "etc inc ltd corp co bros llc plc jr sr ph.d m.d b.a m.a d.c u.s u.k u.n e.u u.s.a a.m p.m a.d b.c ave "
        "blvd rd",
        "the a an this that these those it he she we you they i there here his her its our your their my and but "
        "or so if when while after before then now in on at as by for from to what why how who where which one "
        "both all many some most no not please later however although because since once everybody nobody others "
        "is are was were do does did",
    ),
    "de": _language(
        "dr med phil jur kath evang hr hrn fr frl prof ing dipl dipl.-ing st z.b z.t d.h u.a u.u i.d.r s.o s.u "
        "o.ä v.a v.chr n.chr vgl bzw ca evtl ggf inkl exkl zzgl bspw sog sogen insb urspr max min fa gebr geb gest "
        "ehem allg jhdt vs tel",
        "nr s abb tab kap bd abs art str ziff anm jan feb mär apr jun jul aug sep sept okt nov dez",
        "usw etc jr sen co inc u.s.w u.v.m jh",
        "der die das den dem des ein eine einen einem einer er sie es ich wir ihr man dies diese dieser dieses "
        "und aber oder denn doch so da dann danach dort hier nun jetzt heute morgen gestern in im am an auf aus "
        "bei mit nach von vor zu für um als wenn weil ob wie was wer wo warum alle viele manche kein keine nicht "
        "nur auch sein seine ihre mein unser siehe bitte sei ist sind war waren hat haben",
        ordinals=True,
    ),
    "fr": _language(
        "m mm mme mmes mlle mlles dr drs pr mgr st ste c.-à-d c-à-d p.ex ex cf env vs av apr tél boul resp",
        "no n° p pp fig art chap vol t éd sect janv févr avr juil sept oct nov déc",
        "etc av.j.-c apr.j.-c j.-c",
        "le la les l' un une des ce cet cette ces il elle on nous vous ils elles je tu et mais ou donc or ni car "
        "si quand puis alors ensuite ici là dans en sur sous à au aux de du pour par avec sans que qui quoi où "
        "comment pourquoi c'est voir merci",
    ),
    "es": _language(
        "sr sra sres sras srta srtas dr dra dres d dña ud uds vd vds prof profa gral lic ing arq p.ej ej cf ee "
        "aprox avda pza sto sta tel",
        "no núm nº pág págs p pp fig art cap vol t ed ene feb mar abr jun jul ago sept oct nov dic",
        "etc ee.uu uu s.a cía a.c d.c a.m p.m",
        "el la los las un una unos unas este esta esto ese esa él ella ellos ellas yo tú nosotros y pero o si "
        "cuando entonces luego después aquí allí en con sin por para de del al que qué quién cómo dónde no su sus "
        "mi nadie nada todo todos",
    ),
    "it": _language(
        "sig sigg sig.ra sig.na sig.re dott dott.ssa prof prof.ssa ing avv arch on mons ca cfr es p.es tel",
        "n pag pagg p fig art cap vol",
        "ecc s.p.a s.r.l a.c d.c",
    ),
    "pt": _language(
        "sr sra srs sras srta dr dra dres prof profa eng exmo exma d p.ex ex cf av tel",
        "n nº núm pág págs p fig art cap vol",
        "etc ltda s.a a.c d.c",
    ),
    "nl": _language(
        "dr drs ir ing mr mw mevr dhr prof o.a o.m m.n d.w.z bijv bv i.p.v i.v.m n.a.v t.a.v t.o.v z.g zgn resp "
        "ca incl excl",
        "nr blz p fig afb art hfst",
        "enz etc e.d n.v b.v",
    ),
    "pl": _language(
        "np tzw tzn tj dr prof inż mgr ks św ul al pl gen płk kpt ok woj pow", "nr s str rys tab r w poz",
        "itd itp etc", ordinals=True,
    ),
    "cs": _language("např tzv tj dr mgr ing prof sv ul gen resp cca", "č str s obr tab", "atd apod aj", ordinals=True),
    "ru": _language("т.е т.к т.н напр им ул пр проф акад д-р г-н г-жа см ср св тов", "стр рис табл гл ст п №",
                    "т.д т.п др гг г р руб коп тыс млн млрд"),
    "uk": _language("т.зв напр ім вул проф акад д-р див св", "стор с рис табл ст п", "т.д т.п ін рр р грн"),
    "hi": _language("डॉ श्री पं प्रो कु सु", "सं"),
    "ar": _language("أ.د د م أ ص ت"),
    "el": _language("κ κα κος δρ καθ π.χ δηλ βλ αγ", "αρ σ σελ", "κ.λπ κλπ κ.ά"),
    "tr": _language("dr prof doç av sn bkz vb örn", "no s", "vs vd", ordinals=True),
} | {
    # Ordinals, without lists of their own.
    code: _language("dr prof ing mr", "nr", "etc", ordinals=True)
    for code in ("da", "et", "fi", "hr", "hu", "is", "lt", "lv", "nb", "nn", "no", "sk", "sl", "sr")
}

# ISO 639-3, as NLLB and others have it, where lists are kept above.
THREE_LETTERS = {
    "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "por": "pt", "nld": "nl",
    "pol": "pl", "ces": "cs", "rus": "ru", "ukr": "uk", "hin": "hi", "ell": "el", "tur": "tr", "arb": "ar", "ara": "ar",
    "dan": "da", "est": "et", "fin": "fi", "hrv": "hr", "hun": "hu", "isl": "is", "lit": "lt", "lav": "lv", "lvs": "lv",
    "nob": "nb", "nno": "nn", "slk": "sk", "slv": "sl", "srp": "sr",
}

NONE = Abbreviations(frozenset(), frozenset(), frozenset(), frozenset())
# Of a language that nobody named: whatever some language abbreviates. To leave two sentences together costs little.
ANY = Abbreviations(
    frozenset().union(*(each.never for each in BY_LANGUAGE.values())),
    frozenset().union(*(each.number for each in BY_LANGUAGE.values())),
    frozenset().union(*(each.rarely for each in BY_LANGUAGE.values())),
    frozenset().union(*(each.opens for each in BY_LANGUAGE.values())),
)


def code_of(language: str) -> str:
    """The language of codes such as "en", "en-US", "en_XX" and "eng_Latn": two letters where there are any."""
    first = language.replace("_", "-").partition("-")[0].lower()
    return THREE_LETTERS.get(first, first)


def abbreviations_of(language: str | None) -> Abbreviations:
    """The lists of a language; all together where it is not known, and none for one without lists."""
    return ANY if language is None else BY_LANGUAGE.get(code_of(language), NONE)
