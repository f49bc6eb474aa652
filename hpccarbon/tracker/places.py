"""Where a run is: from what its owner said, else the site's configuration, else openly the world. Asks no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hpccarbon.errors import CarbonError

if TYPE_CHECKING:
    from hpccarbon.carbon.footprint import Factors
    from hpccarbon.config import Config
    from hpccarbon.tracker.settings import Settings

_COUNTRIES = """
    ABWAW AFGAF AGOAO AIAAI ALAAX ALBAL ANDAD AREAE ARGAR ARMAM ASMAS ATAAQ ATFTF ATGAG AUSAU AUTAT AZEAZ BDIBI
    BELBE BENBJ BESBQ BFABF BGDBD BGRBG BHRBH BHSBS BIHBA BLMBL BLRBY BLZBZ BMUBM BOLBO BRABR BRBBB BRNBN BTNBT
    BVTBV BWABW CAFCF CANCA CCKCC CHECH CHLCL CHNCN CIVCI CMRCM CODCD COGCG COKCK COLCO COMKM CPVCV CRICR CUBCU
    CUWCW CXRCX CYMKY CYPCY CZECZ DEUDE DJIDJ DMADM DNKDK DOMDO DZADZ ECUEC EGYEG ERIER ESHEH ESPES ESTEE ETHET
    FINFI FJIFJ FLKFK FRAFR FROFO FSMFM GABGA GBRGB GEOGE GGYGG GHAGH GIBGI GINGN GLPGP GMBGM GNBGW GNQGQ GRCGR
    GRDGD GRLGL GTMGT GUFGF GUMGU GUYGY HKGHK HMDHM HNDHN HRVHR HTIHT HUNHU IDNID IMNIM INDIN IOTIO IRLIE IRNIR
    IRQIQ ISLIS ISRIL ITAIT JAMJM JEYJE JORJO JPNJP KAZKZ KENKE KGZKG KHMKH KIRKI KNAKN KORKR KWTKW LAOLA LBNLB
    LBRLR LBYLY LCALC LIELI LKALK LSOLS LTULT LUXLU LVALV MACMO MAFMF MARMA MCOMC MDAMD MDGMG MDVMV MEXMX MHLMH
    MKDMK MLIML MLTMT MMRMM MNEME MNGMN MNPMP MOZMZ MRTMR MSRMS MTQMQ MUSMU MWIMW MYSMY MYTYT NAMNA NCLNC NERNE
    NFKNF NGANG NICNI NIUNU NLDNL NORNO NPLNP NRUNR NZLNZ OMNOM PAKPK PANPA PCNPN PERPE PHLPH PLWPW PNGPG POLPL
    PRIPR PRKKP PRTPT PRYPY PSEPS PYFPF QATQA REURE ROURO RUSRU RWARW SAUSA SDNSD SENSN SGPSG SGSGS SHNSH SJMSJ
    SLBSB SLESL SLVSV SMRSM SOMSO SPMPM SRBRS SSDSS STPST SURSR SVKSK SVNSI SWESE SWZSZ SXMSX SYCSC SYRSY TCATC
    TCDTD TGOTG THATH TJKTJ TKLTK TKMTM TLSTL TONTO TTOTT TUNTN TURTR TUVTV TWNTW TZATZ UGAUG UKRUA UMIUM URYUY
    USAUS UZBUZ VATVA VCTVC VENVE VGBVG VIRVI VNMVN VUTVU WLFWF WSMWS YEMYE ZAFZA ZMBZM ZWEZW
"""
"""ISO 3166-1, alpha-3 and alpha-2: CodeCarbon asks for the first, grid zones begin with the second."""
WORLD = "WORLD"


class Place(NamedTuple):
    """A run's grid zone and its factors; `note` is what the user must be told of the choice (empty: nothing)."""

    zone: str
    name: str
    iso3: str
    factors: Factors
    note: str


def zone_of(iso3: str) -> str | None:
    """The grid zone of a country's three-letter code, None where there is no such country."""
    return _table().get(iso3.strip().upper())


def _table() -> dict[str, str]:
    return {code[:3]: code[3:] for code in _COUNTRIES.split()}


def place(settings: Settings, config: Config) -> Place:
    """The place of a run and what its electricity weighs.

    Raises: CarbonError, if the configuration's zone is not known.
    """
    from hpccarbon.carbon import zones
    from hpccarbon.carbon.footprint import Factors

    zone, note = _zone(settings, config)
    carbon = config.carbon
    if settings.pue is not None:
        carbon = msgspec.structs.replace(carbon, pue=settings.pue, pue_of_year={})
    forced = settings.force_carbon_intensity_g_co2e_kwh
    if forced is not None:
        source = "force_carbon_intensity_g_co2e_kwh"
        carbon = msgspec.structs.replace(carbon, fixed_g_per_kwh=forced, fixed_source=source)
        note = ""
    elif zone != config.carbon.zone:
        carbon = msgspec.structs.replace(carbon, fixed_g_per_kwh=0.0)
    intensities = config.shared("intensity")
    try:
        factors = Factors(msgspec.structs.replace(carbon, zone=zone), intensities)
    except CarbonError as err:
        note = f"{err}; the world's mean is used"
        factors = Factors(msgspec.structs.replace(carbon, zone=WORLD), intensities)
    known = factors.zone or WORLD
    iso3 = next((three for three, two in _table().items() if two == known[:2]), "")
    return Place(known, zones.display_name(known), "" if known == WORLD else iso3, factors, note)


def _zone(settings: Settings, config: Config) -> tuple[str, str]:
    if settings.zone:
        return settings.zone, ""
    code = settings.country_iso_code or ""
    if code:
        zone = zone_of(code)
        if zone is not None:
            return zone, ""
        import difflib

        near = difflib.get_close_matches(code.upper(), _table(), n=3, cutoff=0.5)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        return WORLD, f"country_iso_code {code!r} is no ISO 3166-1 alpha-3 code{hint}; the world's mean is used"
    if config.carbon.zone:
        return config.carbon.zone, ""
    return WORLD, (
        "no place is known: neither country_iso_code (or zone) nor the site's configuration names one. "
        "The world's mean intensity is used; nothing was guessed"
    )
