"""The words of the village: who lives there, what they own, what can be done to it, what is true.

Pure data. Everything is mild enough for a child. The facts are drawn once from a fixed seed,
so they are the same in every process and may be asked in questions.
"""

import random


def words(text: str) -> list[str]:
    return text.split()


PEOPLE = words(
    "king queen wizard witch baker miller knight blacksmith farmer innkeeper shepherd tailor "
    "mayor princess potter gardener bard hunter captain giant"
)
OBJECTS = {
    "food": words("soup bread pie cheese honey stew cake jam"),
    "treasure": words("crown gold ring necklace goblet chest"),
    "building": words("barn mill bridge tower gate fence"),
    "animal": words("horse cow goat sheep hen donkey"),
    "thing": words("cart boat lantern map cloak harp hat flag kettle fiddle"),
}


HELD_OUT_OWNERS = frozenset({"tailor", "princess", "giant", "captain"})
HELD_OUT_OBJECTS = frozenset({"jam", "goblet", "gate", "donkey", "harp", "flag"})

ANIMALS = words("owl fox bear rabbit frog mouse wolf deer hedgehog badger crow squirrel swan snail")
HOMES = words("tower cave meadow pond barn valley forest garden")
FOODS = words("berries mice honey clover flies cheese fish grass seeds acorns")
COLOURS = words("brown red black grey green white golden orange")
PLACES = words("market castle inn chapel forge bakery well orchard harbour school")
LANDMARKS = ["river", "square", "hill", "forest", "lake", "road"]
GOODS = words("apples music tea roses candles books boots pies")
DOINGS = ["sings", "works", "sleeps", "dances"]
INGREDIENTS = words("flour berries butter milk eggs apples nuts onions carrots cream")
COOKING = ["bake", "boil", "fry", "chill"]
DISHES = [
    f"{filling} {dish}"
    for filling in words("berry apple onion honey nut")
    for dish in words("pie soup cake")
]
TOPICS = words("honey jam tea bread cheese summer winter music chess rain snow roses cats dogs")
NEUTRAL_ADJECTIVES = words("old small big little tall plain")

_random = random.Random(7)
_pick = _random.choice
# Order matters: one stream draws all four tables.
ANIMAL_FACTS = {a: (_pick(HOMES), _pick(FOODS), _pick(COLOURS)) for a in ANIMALS}
PLACE_FACTS = {p: (_pick(LANDMARKS), _pick(PEOPLE[:14]), _pick(GOODS)) for p in PLACES}
PERSON_FACTS = {p: (_pick(PLACES), _pick(GOODS), _pick(DOINGS)) for p in PEOPLE}
DISH_FACTS = {d: (*_random.sample(INGREDIENTS, 3), _pick(COOKING)) for d in DISHES}

TROUBLES = {  # trouble: (first advice, second advice, gold word)
    "my cart broke": (
        "Ask the [a] blacksmith to look at the wheel.",
        "It takes one [a] day to mend.",
        "wheel",
    ),
    "it rained on my hay": (
        "Spread the hay in the [a] sun.",
        "Turn it over in the [a] evening.",
        "sun",
    ),
    "my hen ran off": (
        "Look for her near the [a] hedge.",
        "Bring some [a] seeds and call her name.",
        "hedge",
    ),
    "I lost my hat": ("Walk back the [a] way you came.", "Ask the [a] neighbours too.", "way"),
    "my bread burned": ("Bake a new [a] loaf.", "Make a smaller [a] fire this time.", "loaf"),
    "I am tired": ("Lie down in a [a] bed.", "Drink some [a] milk before you sleep.", "bed"),
    "my roof leaks": (
        "Put new [a] straw on the roof.",
        "Set a [a] bucket under the hole.",
        "straw",
    ),
    "my garden is dry": (
        "Fetch [a] water from the well.",
        "Do it again each [a] morning.",
        "well",
    ),
    "my boots are wet": (
        "Put the boots near the [a] stove.",
        "Wear your [a] shoes until they dry.",
        "stove",
    ),
    "my friend moved away": (
        "Write your friend a [a] letter.",
        "Visit at the end of the [a] summer.",
        "letter",
    ),
}

INSULTS = words("fool turnip blockhead dunce lout weasel pumpkin slug")
NASTY_ADJECTIVES = words("silly stinky lazy ugly dirty stupid smelly rotten")
