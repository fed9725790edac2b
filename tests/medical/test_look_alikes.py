"""Medicines that are taken for one another must stay apart: in the text, and in the clinical key.

The pairs are names only, from the ISMP List of Confused Drug Names (updated through February 2023), read in a public
transcription of it. Left out: products that no list here has. Pairs of one substance (two salts, forms or makers) stand
apart: they may be one drug, but their doses differ, so an answer on one must never serve for the other.
"""

from __future__ import annotations

import pytest

from edgemed.medical.clinical_key import clinical_key, compare
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms.lexicon import find_terms

QUESTIONS = ("What is the dose of {} in adults?", "Can I give {} with warfarin?", "{} side effects in pregnancy")
NAMES = """
accupril/aciphex acetaminophen/acetazolamide acetazolamide/acetohexamide aciphex/aricept activase/tnkase
actonel/actos adderall/inderal trastuzumab_emtansine/trastuzumab aggrastat/argatroban alfentanil/fentanyl
alfentanil/sufentanil alkeran/leukeran alkeran/myleran allegra/viagra alprazolam/clonazepam alprazolam/lorazepam
amantadine/amiodarone amaryl/reminyl ambien/ambrisentan amicar/omacor amikin/kineret amiloride/amlodipine
antivert/axert anzemet/avandamet apidra/spiriva apixaban/axitinib argatroban/orgaran aricept/azilect
aripiprazole/rabeprazole atomoxetine/atorvastatin avandia/coumadin avandia/prandin avinza/evista avinza/invanz
azacitidine/azathioprine bamlanivimab/belimumab benadryl/benazepril benicar/mevacor bextra/zetia brethine/methergine
brilinta/brintellix brilinta/briviact bupivacaine/ropivacaine buprenorphine/hydromorphone bupropion/buspirone
captopril/carvedilol carbamazepine/oxcarbazepine carboplatin/cisplatin cardene/cardizem cardura/coumadin
cefazolin/cefotetan cefazolin/cefoxitin cefazolin/ceftazidime cefazolin/ceftriaxone cefotetan/cefoxitin
cefotetan/ceftazidime cefotetan/ceftriaxone cefoxitin/ceftazidime cefoxitin/ceftriaxone ceftazidime/ceftriaxone
cefuroxime/sulfasalazine celebrex/celexa celebrex/cerebyx celexa/cerebyx celexa/zyprexa cetirizine/sertraline
cetirizine/stavudine chlordiazepoxide/chlorpromazine chlorpromazine/chlorpropamide citalopram/escitalopram
clobazam/clonazepam clomiphene/clomipramine clonazepam/clonidine clonazepam/clozapine clonazepam/lorazepam
clonidine/clozapine clonidine/klonopin clozaril/colazal codeine/lodine coenzyme_q10/cometriq colace/cozaar
colchicine/cortrosyn cozaar/zocor cyclophosphamide/cycloserine cyclophosphamide/cyclosporine
cycloserine/cyclosporine dabigatran/vigabatrin dactinomycin/daptomycin darvon/diovan daunorubicin/doxorubicin
daunorubicin/idarubicin denavir/indinavir desipramine/disopyramide desmopressin/vasopressin desyrel/seroquel
dexamethasone/dexmedetomidine dexilant/duloxetine dexmethylphenidate/methadone diabinese/diamox diabeta/zebeta
diazepam/diltiazem diflucan/diprivan dimenhydrinate/diphenhydramine diovan/zyban diprivan/ditropan
dobutamine/dopamine docetaxel/paclitaxel doribax/zovirax doxil/paxil doxorubicin/idarubicin dronabinol/droperidol
duloxetine/fluoxetine duloxetine/paroxetine duricef/ultracet dynacin/dynacirc ephedrine/epinephrine
epirubicin/eribulin fanapt/xanax farxiga/fetzima fentanyl/sufentanil flavoxate/fluvoxamine fluoxetine/loxitane
fluoxetine/paroxetine fluphenazine/fluvoxamine folic_acid/folinic_acid fomepizole/omeprazole foradil/toradol
gabapentin/gemfibrozil gentamicin/gentian_violet glipizide/glyburide guaifenesin/guanfacine heparin/hespan
humalog/humulin humalog/novolog hydralazine/hydrochlorothiazide hydralazine/hydromorphone hydralazine/hydroxyzine
hydrea/lyrica hydrochlorothiazide/hydroxyzine hydrochlorothiazide/hydroxychloroquine hydrocodone/oxycodone
hydromorphone/hydroxyzine hydromorphone/morphine hydromorphone/oxymorphone hydroxychloroquine/hydroxyurea
hydroxyprogesterone/medroxyprogesterone hydroxyurea/hydroxyzine idarubicin/idarucizumab infliximab/rituximab
inspra/spiriva intuniv/invega iodine/lodine isordil/plendil isotretinoin/tretinoin jantoven/janumet jantoven/januvia
janumet/januvia janumet/sinemet kaletra/keppra keflex/keppra ketalar/ketorolac ketamine/ketorolac
ketorolac/methadone labetalol/lamictal labetalol/lamotrigine lamictal/lamisil lamivudine/lamotrigine
lamotrigine/levetiracetam lamotrigine/levothyroxine lanoxin/levothyroxine lanoxin/naloxone lanthanum/lithium
lantus/latuda lariam/levaquin lasix/luvox lasix/wakix leucovorin/leukeran leucovorin/levoleucovorin leukeran/myleran
levemir/lovenox levetiracetam/levocarnitine levetiracetam/levofloxacin levothyroxine/liothyronine lexapro/loxitane
lexiva/pexeva linaclotide/linagliptin lipitor/loniten lipitor/zyrtec lithium/ultram lopressor/lyrica
lorazepam/lovaza lotronex/protonix loxitane/soriatane lunesta/neulasta malarone/mefloquine maxzide/microzide
medroxyprogesterone/methylprednisolone medroxyprogesterone/methyltestosterone memantine/methadone metadate/methadone
metformin/metronidazole methadone/methylphenidate methadone/metolazone methazolamide/methimazole
methazolamide/metolazone methimazole/metolazone methotrexate/metolazone methylprednisolone/methyltestosterone
metyrapone/metyrosine micronase/microzide mifepristone/misoprostol migalastat/miglustat miralax/mirapex
mitomycin/mitoxantrone motrin/neurontin mucinex/mucomyst nalbuphine/naloxone narcan/norcuron navane/norvasc
neratinib/nilotinib neratinib/niraparib neurontin/noroxin nexavar/nexium nicardipine/nifedipine
nicardipine/nimodipine nifedipine/nimodipine nilotinib/niraparib nizatidine/tizanidine novolin/novolog
olanzapine/quetiapine oxaprozin/oxcarbazepine oxybutynin/oxycodone oxybutynin/oxycontin oxybutynin/oxymorphone
oxycodone/oxymorphone oxycontin/oxytocin pamelor/tambocor paroxetine/piroxicam patanol/platinol paxil/plavix
paxil/taxol paxil/trexall pazopanib/ponatinib pemetrexed/pralatrexate penicillamine/penicillin
pentobarbital/phenobarbital pitocin/pitressin plavix/pradaxa pralidoxime/pyridoxine prednisolone/prednisone
prilosec/pristiq prilosec/prozac prograf/proscar prograf/prozac propylthiouracil/purinethol proscar/provera
protamine/protonix provera/prozac pyridium/pyridoxine physostigmine/pyridostigmine pyridostigmine/pyridoxine
quinidine/quinine ranitidine/rimantadine rapaflo/rapamune rasagiline/repaglinide razadyne/rozerem remeron/rozerem
reminyl/robinul restoril/risperdal retrovir/ritonavir ribavirin/riboflavin rifabutin/rifapentine rifadin/rifater
rifamate/rifampin rifampin/rifaximin risperdal/ropinirole risperidone/ropinirole ritalin/ritodrine
rocuronium/romazicon romidepsin/romiplostim salagen/selegiline sandimmune/sandostatin saquinavir/sinequan
saxagliptin/sitagliptin seroquel/serzone seroquel/sinequan sertraline/soriatane silodosin/sirolimus
sinequan/singulair sinequan/zonegran sitagliptin/sumatriptan solu-cortef/solu-medrol sonata/soriatane
sorafenib/sunitinib sotalol/sudafed spravato/steglatro sulfadiazine/sulfasalazine sulfadiazine/sulfisoxazole
sumatriptan/zolmitriptan tacrolimus/tamsulosin tarceva/tresiba taxol/taxotere tegretol/tequin tegretol/trental
tenex/xanax tequin/ticlid thalomid/thiamine tiagabine/tizanidine tolazamide/tolbutamide toujeo/tradjenta
toujeo/trulicity tracleer/tricor tradjenta/tresiba tradjenta/trulicity tramadol/trazodone tresiba/trulicity
valacyclovir/valganciclovir valcyte/valtrex venofer/vfend venofer/vimpat vesanoid/vesicare vfend/vimpat
vinblastine/vincristine vioxx/zyvox viracept/viramune xanax/zantac xeloda/xenical zantac/zyrtec zebeta/zetia
zemplar/zemuron zerit/zyrtec zestril/zetia zestril/zyprexa zocor/zyrtec zolpidem/zyloprim zostrix/zovirax
zovirax/zyvox zyprexa/zyrtec
"""
PAIRS = NAMES.split()
FORMS = (
    "Abelcet/amphotericin B", "AmBisome/amphotericin B", "amphotericin B/amphotericin B liposomal",
    "Adderall/Adderall XR", "Bicillin C-R/Bicillin L-A", "cyclosporine/cyclosporine modified",
    "daunorubicin/daunorubicin liposomal", "doxorubicin/doxorubicin liposomal", "Depakote/Depakote ER",
    "Depo-Medrol/Solu-Medrol", "Depo-Provera/Depo-SubQ Provera 104", "Effexor/Effexor XR", "Flonase/Flovent",
    "Humulin/Novolin", "Humulin R U-100/Humulin R U-500", "Metadate CD/Metadate ER", "MS Contin/OxyContin",
    "oxycodone/OxyContin", "opium tincture/paregoric", "paclitaxel/paclitaxel protein-bound particles",
    "Renagel/Renvela", "Ritalin LA/Ritalin SR", "Seroquel/Seroquel XR", "Tegretol/Tegretol XR",
    "Wellbutrin SR/Wellbutrin XL", "Sudafed/Sudafed PE", "Zantac/Zantac 360", "Tylenol/Tylenol PM",
    "Mucinex D/Mucinex DM", "Lupron Depot-3 Month/Lupron Depot-Ped", "Yasmin/Yaz",
)  # fmt: skip


def halves(pair: str) -> tuple[str, str]:
    """The two names of "one/other"; "_" stands for a blank."""
    one, other = pair.replace("_", " ").split("/")
    return one, other


def drug_of(name: str) -> str:
    """The listed drug that a whole name stands for; "" when there is none, or more than one."""
    found = find_terms(read(name).plain)
    whole = [term.name for term in found if term.kind is TermKind.DRUG and term.listed and term.end == len(name)]
    return whole[0] if len(found) == len(whole) == 1 else ""


def test_there_are_enough_pairs_and_none_twice() -> None:
    assert len({frozenset(halves(pair)) for pair in PAIRS}) == len(PAIRS) >= 300


@pytest.mark.parametrize("pair", PAIRS)
def test_look_alikes_are_two_listed_drugs(pair: str) -> None:
    one, other = (drug_of(name) for name in halves(pair))
    assert one
    assert other
    assert one != other


@pytest.mark.parametrize("pair", [*PAIRS, *FORMS])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_on_one_never_shares_the_key_of_the_other(question: str, pair: str) -> None:
    one, other = (clinical_key(question.format(name)) for name in halves(pair))
    assert compare(one, other)
