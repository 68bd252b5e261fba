"""Words that the synthetic conversations are made of, and the split into training and held-out.

The split is by hash of the whole string (a function name, a value, a pair of numbers), so a
held-out string never occurs in training in that role, although its single words do. Values that
are one word of a list (a city, a language) are on both sides.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
HELD_OUT_SHARE = 0.1


def is_held_out(kind: str, text: str) -> bool:
    """Whether `text` in the role `kind` is kept out of training (one in ten).

    Single words are not: a word that was never written in training cannot be written later.
    """
    if text.isalpha():
        return False
    digest = hashlib.sha256(f"{kind}\0{text}".encode()).digest()
    return digest[0] < HELD_OUT_SHARE * 256


class Source:
    """Randomness of one side of the split: it draws only strings of its own side."""

    def __init__(
        self,
        seed: int | str,
        *,
        held_out: bool,
        strange: Sequence[str] = ("something",),
        pieces: Sequence[str] = ("some", "piece"),
    ) -> None:
        self.random = random.Random(f"{seed}/{held_out}")
        self.held_out = held_out
        self.strange = strange  # words that the stored vocabulary lacks
        self.pieces = pieces  # single tokens of the stored vocabulary, as words

    def piece(self) -> str:
        """Any stored word, so that every stored token is copied in every role now and then."""
        return self.choice(self.pieces)

    def small_piece(self) -> str:
        """A stored word of small letters, as names are made of."""
        for _ in range(100):
            piece = self.piece()
            if piece.islower():
                return piece
        return "piece"

    def noun(self, any_share: float = 0.12) -> str:
        """A noun, or now and then any stored word in its place."""
        return self.small_piece() if self.chance(any_share) else self.choice(NOUNS)

    def draw(self, kind: str, make: Callable[[], T], attempts: int = 400) -> T:
        """Call `make` until its result, as text, is on this side of the split."""
        for _ in range(attempts):
            value = make()
            if is_held_out(kind, str(value)) == self.held_out:
                return value
        raise ValueError(f"no {kind} on this side of the split in {attempts} draws")

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.random.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.random.random() * (high - low + 1))


def _split(text: str, separator: str | None = None) -> list[str]:
    return text.split(separator)


NOUNS = _split(
    """
    account address agent album animal answer apple archive area article artist asset badge
    bag ball band bank basket battery bean bed bell belt bench bike bill bird block board boat
    book bottle bowl box bread bridge brush bucket budget building bus button cable cake
    camera camp candle card cargo carpet case cat chain chair channel chart check circle city
    class clock cloud club coat code coffee coin collection color comment company contact
    contract cookie copy corner country course court crane cream crew crop cup curve customer
    cycle dance data day deal deck delivery desk device diamond dinner disk document dog door
    draft dream dress drive drum duck ear earth edge egg engine entry event exam expense eye
    face factory family farm feature field figure file film filter fire fish flag flight floor
    flower folder food forest form fork frame friend fruit game garden gate gift glass gold
    grade grain grape graph grass group guest guide guitar hall hammer hand hat head heart
    hill history holiday home horse hospital hotel house ice idea image index invoice iron
    island item jacket job joke journal juice key kitchen knife lab label lake lamp lane
    language laser leaf lemon lesson letter level library license light line link list load
    loan lock log machine magazine mail map market match meal measure medal meeting member
    memory menu message metal meter milk mind mirror model money month moon motor mountain
    mouse movie museum music name network news night node note number object ocean office oil
    order package page paint pair palace panel paper parcel park part party path patient
    payment pen pencil pepper person phone photo piano picture piece pipe place plan plane
    plant plate player pocket poem point policy pool port post poster price printer prize
    product profile project queue quote radio rain range record region report request river
    road robot rock role roof room root rope route row sale salt sample sand scale scene
    school score screen sea season seat section seed sensor server service session shape sheet
    shelf ship shirt shoe shop show sign signal silver sister size skill sky snow soap song
    sound soup source space sport spring square stage stamp star station status stone store
    storm story street student subject sugar suit summer sun survey symbol system table tag
    task taxi tea teacher team test text theme thing ticket tiger tile timer title tool topic
    tower town toy track train tree trip truck tunnel unit user valley value vehicle video
    village visit voice wall watch water wave weather web week wheel wind window wine winter
    wolf wood word work world yard year zone
    """
)

ADJECTIVES = _split(
    """
    active annual basic big black blue bold brave bright broad brown busy calm central cheap
    clean clear clever cold common cool correct daily dark deep digital direct double dry
    early easy empty equal exact extra fair fast final fine first flat fresh full general
    gentle global golden good gray great green happy hard heavy hidden high huge ideal inner
    internal kind large last late left light little local long loud low lucky main major
    medium mild minor modern monthly narrow natural new nice north old open orange outer pink
    plain polite poor private proud public pure purple quick quiet rare raw ready red regular
    rich right rough round royal safe sharp short silent simple single slow small smart smooth
    soft solid south special stable standard steel strange strong sweet tall thick thin tiny
    total true urban warm weekly west wet white whole wide wild wise wooden yellow young
    """
)

VERBS = _split(
    """
    add apply approve archive assign attach block book buy cancel change check clean clear
    close collect compare confirm connect convert copy count create cut define delete deliver
    detect download draw edit enable estimate export fetch fill filter find fix format
    generate get give group hide import insert inspect install invite join label launch link
    list load lock log look make mark measure merge move notify open order pack pause pay pick
    place plan play post predict prepare print publish pull push query rank rate read record
    refresh register release remove rename repair replace report request reserve reset resize
    restart restore resume return review rotate run save scan schedule search select sell send
    set share show shuffle sign sort split start stop store submit subscribe switch sync tag
    test track transfer translate turn unlock update upload validate verify view watch write
    """
)

# Words that may be written with a capital, or stand first in a function's name.
CAPITAL = (NOUNS + ADJECTIVES)[::4]
NOUNS_FIRST = NOUNS[::4]

FIRST_NAMES = _split(
    """
    Adam Alan Alex Alice Amy Andrew Angela Anna Anne Anthony Arthur Barbara Ben Bob Brian Carl
    Carlos Carol Charles Chris Claire Daniel David Diana Donald Edward Elena Elizabeth Emily
    Emma Eric Eva Frank George Grace Hannah Harry Helen Henry Ian Jack Jacob James Jane Jason
    Jean Jennifer Jim Joe John Jonathan Joseph Julia Justin Karen Karl Kate Keith Kelly Ken
    Kevin Laura Lee Leon Linda Lisa Louis Lucy Luke Marc Marco Maria Mark Martin Mary Matt Max
    Michael Michelle Mike Nancy Nick Oliver Oscar Pablo Patrick Paul Peter Philip Rachel Ray
    Rebecca Richard Robert Roger Rose Ruth Ryan Sam Samuel Sara Sarah Scott Sean Simon Sophie
    Stephen Steve Susan Thomas Tim Tom Tony Victor Victoria Walter William
    """
)

LAST_NAMES = _split(
    """
    Adams Allen Anderson Baker Bell Bennett Bishop Brown Butler Campbell Carter Clark Collins
    Cook Cooper Cox Cruz Davis Diaz Edwards Evans Ferguson Fisher Ford Foster Garcia Gordon
    Graham Gray Green Hall Hamilton Harris Hill Howard Hughes Hunter Jackson Johnson Jones
    Kelly Kennedy King Lee Lewis Lopez Marshall Martin Martinez Mason Miller Mitchell Moore
    Morgan Morris Murphy Murray Nelson Palmer Parker Perez Phillips Porter Powell Price Reed
    Reyes Reynolds Rivera Roberts Robinson Rogers Ross Russell Ryan Sanders Scott Shaw Silva
    Smith Stewart Stone Sullivan Taylor Thomas Thompson Torres Tucker Turner Walker Wallace
    Ward Washington Watson Webb Wells West White Williams Wilson Wood Woods Wright Young
    """
)

CITIES = _split(
    """
    Amsterdam Athens Atlanta Austin Bangkok Barcelona Beijing Berlin Bern Birmingham Boston
    Brisbane Bristol Brussels Budapest Cairo Cambridge Cape Chicago Cleveland Columbus
    Copenhagen Dallas Delhi Denver Detroit Dubai Dublin Edinburgh Florence Frankfurt Geneva
    Glasgow Hamburg Helsinki Houston Istanbul Jakarta Jerusalem Kansas Kyoto Lagos Leeds Lima
    Lisbon Liverpool London Lyon Madrid Manchester Manila Melbourne Miami Milan Montreal
    Moscow Mumbai Munich Nairobi Naples Nashville Oslo Ottawa Oxford Paris Perth Philadelphia
    Phoenix Portland Prague Rome Sacramento Santiago Seattle Seoul Shanghai Singapore
    Stockholm Sydney Tokyo Toronto Vancouver Venice Vienna Vietnam Warsaw Washington Zurich
    Rotterdam Valencia Krakow Havana Bogota Riga Porto
    """
) + _split(
    "New York, Los Angeles, San Francisco, San Diego, Mexico City, Hong Kong, Las Vegas, "
    "New Delhi, Buenos Aires, Cape Town",
    ", ",
)

COUNTRIES = _split(
    """
    Argentina Australia Austria Belgium Brazil Canada Chile China Colombia Cuba Denmark Egypt
    England Finland France Germany Greece Hungary India Indonesia Iran Ireland Israel Italy
    Japan Kenya Malaysia Mexico Morocco Nepal Netherlands Nigeria Norway Pakistan Peru Poland
    Portugal Romania Russia Scotland Spain Sweden Switzerland Thailand Turkey Ukraine Vietnam
    Wales
    """
)

LANGUAGES = _split(
    """
    Arabic Chinese Danish Dutch English French German Greek Hebrew Hindi Indonesian Italian
    Japanese Korean Latin Norwegian Polish Portuguese Russian Spanish Swedish Turkish
    """
)

COLORS = _split(
    """
    black blue brown gold gray green orange pink purple red silver white yellow
    """
)

FOODS = _split(
    """
    apple banana beans beef bread butter cake carrot cheese chicken chocolate coconut coffee
    cookie corn cream egg fish garlic grape honey juice lemon lime mango milk mushroom nut
    olive onion orange pasta peach pepper pizza potato rice salad salmon salt sauce soup sugar
    tea tomato wine
    """
)

ANIMALS = _split(
    """
    bear bird cat cow deer dog dolphin duck eagle elephant fish fox frog goat horse lion
    monkey mouse owl penguin pig rabbit shark sheep snake spider tiger turtle whale wolf
    """
)

JOBS = _split(
    """
    actor artist baker chef doctor driver editor engineer farmer guard judge lawyer manager
    nurse painter pilot player professor reporter sailor scientist singer soldier student
    teacher trainer waiter writer
    """
)

CURRENCIES = _split(
    """
    USD EUR GBP JPY CHF CAD AUD INR CNY SEK
    """
)
MONTHS = _split(
    """
    January February March April May June July August September October November December
    """
)
WEEKDAYS = _split(
    """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
    """
)
TIMEZONES = _split(
    """
    UTC Europe/London Europe/Paris Europe/Berlin Europe/Madrid Europe/Rome America/Chicago
    America/Denver America/Toronto Asia/Tokyo Asia/Seoul Asia/Singapore Australia/Sydney
    Africa/Cairo Asia/Dubai Europe/Oslo America/New_York
    """
)

EVERY_LIST = (
    *(NOUNS, ADJECTIVES, VERBS, FIRST_NAMES, LAST_NAMES, CITIES, COUNTRIES, LANGUAGES, COLORS),
    *(FOODS, ANIMALS, JOBS, CURRENCIES, MONTHS, WEEKDAYS),
)

# Things people ask that no demonstration model of this size could answer.
TOPICS = _split(
    """
    photosynthesis gravity football cooking history music chess politics economics evolution
    dinosaurs volcanoes philosophy mathematics physics chemistry biology art poetry love
    democracy religion climate energy space planets stars black holes the ocean the moon the
    sun World War the Roman Empire computers programming Python JavaScript databases the
    internet robots machine learning neural networks quantum physics medicine health vitamins
    exercise sleep meditation investing taxes insurance marketing travel photography gardening
    painting dancing movies books novels theater basketball tennis swimming running cars
    airplanes trains ships bicycles electricity magnets light sound water air fire metals
    plastics glass paper money banks stocks gold oil coffee tea wine bread cheese pizza sushi
    chocolate fruit vegetables dogs cats horses birds fish insects trees flowers mountains
    rivers deserts islands earthquakes storms rainbows
    """
)
