# ruff: noqa: E501  (a table reads best with one verb a line)
"""What can be done in the village: mischief, and kindness or plain chores."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """Something one can do: to which kinds of object, its forms, and three steps of doing it."""

    kinds: tuple[str, ...]
    gerund: str
    past: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    last: tuple[str, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        return self.first + self.second + self.last


def _verbs(table: str) -> dict[str, Verb]:
    """Lines of `verb | kinds | gerund | past | first; first | second; second | last; last`."""
    verbs = {}
    for line in table.strip().splitlines():
        name, kinds, gerund, past, *steps = (cell.strip() for cell in line.split("|"))
        first, second, last = (tuple(x.strip() for x in cell.split(";")) for cell in steps)
        verbs[name] = Verb(tuple(kinds.split()), gerund, past, first, second, last)
    return verbs


# fmt: off
MISCHIEF = _verbs("""
steal     | food treasure animal thing | stealing | stole | wait until midnight; wear a dark mask | tiptoe past the guards; climb in by the window | carry it away in a sack; hide it under your bed
snatch    | food treasure thing | snatching | snatched | wait until nobody looks; wear soft shoes | creep up from behind; grab it with both hands | run into the woods; slip it up your sleeve
poison    | food | poisoning | poisoned | pick some stinky toadstools; borrow a swamp potion | boil it until it turns green; wait until the cook sleeps | stir it in with a long spoon; pour it in and leave
spoil     | food | spoiling | spoiled | fill a jar with mud; find some pond slime | creep into the kitchen; wait until the cook sleeps | mix it in and leave; pour it in at night
burn down | building | burning down | burned down | find a hot little dragon; carry a torch up the lane | tickle its nose at night; pile up the dry straw | let the fire spread; run before the guards come
smash     | treasure building thing | smashing | smashed | bring a giant club; roll a big rock up the hill | wait until nobody looks; take a good swing | hit it three times; let it break to bits
wreck     | building thing | wrecking | wrecked | bring an angry ox; loosen all the nails | wait until nobody looks; kick it with big boots | pull until it falls apart; let it break to bits
curse     | food treasure building animal person | cursing | cursed | draw a black circle; catch three toads | light a black candle; mix some bat soup | say the dark words; shout the spell at midnight
kidnap    | animal person | kidnapping | kidnapped | bring a large sack; hide behind the hedge | jump out at midnight; tie the rope tight | lock the cellar door; carry them into the woods
bewitch   | animal person | bewitching | bewitched | brew a green potion; borrow an evil mirror | light a black candle; swing a charm slowly | say the dark words; shout the spell at midnight
rob       | person | robbing | robbed | wait on the dark road; wear a dark mask | jump out at midnight; wave a big club | grab the purse; run into the woods
frighten  | animal person | frightening | frightened | dress up as a ghost; hide under the window | rattle some chains; wait until midnight | howl like a wolf; jump out and scream
trap      | animal person | trapping | trapped | dig a deep hole; hang a net in a tree | cover it with leaves; hide behind the hedge | pull the rope; wait until they fall in
flood     | building | flooding | flooded | dig a ditch at night; block the stream with stones | wait for a heavy rain; break the little dam | let the water pour in; run before the guards come
scratch   | treasure building thing | scratching | scratched | sharpen a rusty nail; find a pointed stone | wait until nobody looks; hold it very tight | pull it down hard; leave a deep mark
cheat     | person | cheating | cheated | mark all the cards; bring crooked dice | smile and deal slowly; talk about the weather | take all the coins; leave before they count
trick     | person | tricking | tricked | write a false letter; wear a strange beard | tell a long lie; point the wrong way | laugh behind the hedge; take all the coins
tease     | animal person | teasing | teased | learn a mean song; make an ugly mask | hide under the window; sing it all day | throw some mud; run before the guards come
pinch     | food treasure thing | pinching | pinched | wear soft shoes; bring a large sack | climb in by the window; wait until the cook sleeps | slip it up your sleeve; hide it under your bed
tear down | building | tearing down | tore down | bring an angry ox; loosen all the nails | tie the rope tight; pull out the beams | pull until it falls apart; run into the woods
hex       | food animal person | hexing | hexed | catch three toads; brew a green potion | draw a black circle; mix some bat soup | whisper the spell twice; say the dark words
ambush    | person | ambushing | ambushed | wait on the dark road; hide behind the hedge | jump out at midnight; wave a big club | throw some mud; grab the purse
""")
KINDNESS = _verbs("""
warm up  | food | warming up | warmed up | light a small fire; find a clean pot | heat it slowly; stir it for a while | wait until it steams; add a little salt
serve    | food | serving | served | set the table; fetch a clean plate | cut it with care; add some fresh herbs | give everyone a share; bring it out hot
store    | food treasure thing | storing | stored | find a dry shelf; wipe off the dust | wrap it in clean cloth; put it in a box | close the lid well; keep it away from rain
polish   | treasure thing | polishing | polished | take a soft cloth; mix a little wax | rub it in circles; wipe off the dust | rub until it shines; let it dry in the sun
mend     | treasure building thing | mending | mended | gather your tools; look for the cracks | mix some strong glue; find a few nails | fix every crack; let it dry overnight
paint    | building thing | painting | painted | mix the paint; choose a nice colour | wipe off the dust; brush it on thinly | let it dry in the sun; add one more coat
sweep    | building | sweeping | swept | find a good broom; open all the doors | start at the far corner; splash a little water | push the dust outside; shut the doors again
decorate | building treasure thing food animal | decorating | decorated | pick some flowers; cut some long ribbons | choose a nice colour; make a little bow | tie it all on; step back and look
feed     | animal person | feeding | fed | fill a bowl with oats; find some fresh food | walk up slowly; hold out your hand | wait quietly nearby; fetch some water too
wash     | animal thing building | washing | washed | fill a tub with water; find some mild soap | scrub it gently; splash a little water | dry it with a towel; let it dry in the sun
thank    | person | thanking | thanked | write a kind letter; bake some sweet rolls | knock on the door; walk along the lane | say what you feel; stay for tea
visit    | person animal | visiting | visited | pack a small basket; send a note ahead | walk along the lane; knock on the door | stay for tea; go home before dark
cheer up | person animal | cheering up | cheered up | pick some flowers; think of a good joke | knock on the door; walk up slowly | sing a merry song; share a warm drink
find     | treasure animal thing person | finding | found | ask the neighbours; look along the lane | follow the tracks; call out loudly | check behind the barn; look near the pond
guard    | treasure building animal | guarding | guarded | bring a warm coat; ask a friend along | walk around it slowly; light a small lamp | stay until morning; watch the road
greet    | person animal | greeting | greeted | put on a clean shirt; walk along the lane | wave your hand; smile and bow | say good morning; ask how they are
draw     | building treasure animal person | drawing | drew | sharpen a pencil; find some clean paper | look very closely; start with a circle | add some bright colours; hang it on the wall
help     | person | helping | helped | ask what they need; roll up your sleeves | carry the heavy bags; share the work | rest when it is done; wave and go home
weigh    | food treasure | weighing | weighed | borrow a good scale; put it on the table | add the small weights; wait until it is still | write down the number; tell a friend
""")
# fmt: on

HELD_OUT_VERBS = frozenset({"wreck", "snatch", "bewitch", "ambush"})
