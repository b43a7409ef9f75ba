"""Which words of a prompt modify which noun, by a rule on closed-class words."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_xattn.prompts.words import Word

_CLOSED_CLASSES = {
    "determiners": "a an the this that these those my your his her its our their some any each "
    "every no another other both all either neither what which whose",
    "numbers": "one two three four five six seven eight nine ten eleven twelve dozen several many "
    "few couple pair first second third",
    "conjunctions": "and or but nor so yet as than while when where if because",
    "prepositions": "of in on at by for with without from to into onto over under above below "
    "beneath underneath beside besides between behind before after near inside outside through "
    "across along around against among amid toward towards upon within beyond like about off up "
    "down out during next front top bottom left right side middle",
    "pronouns": "i you he she it we they me him them us who whom there here",
    "adverbs": "very really quite too extremely slightly rather not never only just also almost",
    "common verbs": "is are was were be been being am has have had having do does did could will "
    "would should may might must looks looking sits sit sitting stands standing lies lying runs "
    "running walks walking wears wear wearing holds hold holding rides riding carries carry "
    "carrying eats eat eating drinks drinking plays playing flies flying jumps jumping swims "
    "swimming hangs hang hanging leans leaning rests resting floats floating made painted drawn "
    "filled covered surrounded decorated placed seen shown facing using touching reading watching "
    "driving",
}
_BREAKS = frozenset(word for words in _CLOSED_CLASSES.values() for word in words.split())


def modifier_pairs(prompt: str, words: Sequence[Word]) -> list[tuple[Word, Word]]:
    """Each modifier of a prompt with its noun, in their order.

    A noun phrase is taken to be a run of words with nothing but white space between them and no
    word of a closed class in it: no determiner, number, conjunction, preposition, pronoun, adverb
    of degree or common verb. Its last word is the noun, and each word before it a modifier.
    "a red circle left of a blue square" gives (red, circle) and (blue, square).

    That is a rule on a list of English words and no grammar. It misses adjectives behind a verb
    ("the car is red") and the first of two that are joined ("a black and white cat" gives (white,
    cat)); participles of its list before a noun ("a running dog"); and names such as "right hand".
    A verb that is not in the list ends a noun phrase wrongly: "a red bird sings" gives (red, sings)
    and (bird, sings). Where it is wrong, name the pairs yourself.

    Args:
        prompt: as typed.
        words: what `split_words` gave for it; those that stand elsewhere (a second prompt, spans
            under names of one's own, a picture beside the text) are in no noun phrase of it.

    Returns:
        Modifier and noun; none of a word that the window of the text encoder cut off.
    """
    runs: list[list[Word]] = [[]]
    for word in words:
        if word.source != "prompt":
            continue
        text = word.text.casefold()
        after = runs[-1][-1].stop if runs[-1] else word.start
        if prompt[after : word.start].strip():  # punctuation
            runs.append([])
        if text in _BREAKS or text.isdigit():
            runs.append([])
        else:
            runs[-1].append(word)
    return [
        (modifier, run[-1])
        for run in runs
        if run and run[-1].columns
        for modifier in run[:-1]
        if modifier.columns
    ]
