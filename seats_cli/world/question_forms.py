"""The forms in which the questions of every family are put.

What a question names stands in slots: {thing} "red square", "word dog", "number 7"; {a_thing} "an
orange ring"; {object} "picture", "thing"; {scene} "red card"; {color}, {shape}; {group} "red
shapes"; {place} "on the left"; {word} a word that is said; {print} and {noun} "word" or "number";
{sound} "beep"; {during} "when the beeps sound"; {when} " first", " last" or nothing; {time} "at the
start".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# In American spelling; `wording.word_question` writes "colour" in three of ten questions.
QUESTION_FORMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "color": (
            "What color is the {object}?",
            "Which color does the {object} have?",
            "What is the color of the {object}?",
            "What color is shown?",
            "Which color is shown?",
            "What color do you see?",
        ),
        "shape": (
            "Which shape is shown?",
            "What shape is it?",
            "What is the shape of the {object}?",
            "Which shape is in the video?",
            "What shape does the {object} have?",
            "What shape do you see?",
        ),
        "motion": (
            "Which way does the {object} move?",
            "In which direction is the {object} moving?",
            "What is the direction of motion?",
            "Where does the {object} move?",
            "How does the {object} move?",
            "In which direction does the {object} go?",
        ),
        "sound_kind": (
            "Which kind of sound is heard?",
            "What kind of sound is in the audio?",
            "What do you hear?",
            "What is heard?",
            "What sound is heard?",
            "What kind of sound is it?",
            "Which sound is heard?",
        ),
        "pitch": (
            "Is the {sound} high or low?",
            "Is the pitch of the {sound} high or low?",
            "Is the {sound} low or high?",
            "What is the pitch of the {sound}, low or high?",
        ),
        "sweep": (
            "Is the {sound} rising or falling?",
            "Does the pitch rise or fall?",
            "Does the {sound} rise or fall?",
            "Is the pitch rising or falling?",
        ),
        "beep_count": (
            "How many beeps are heard?",
            "How many beeps are there?",
            "Count the beeps.",
            "How many beeps do you hear?",
            "How many times does it beep?",
            "What is the number of beeps?",
        ),
        "first_color": (
            "What color is shown first?",
            "Which color is shown first?",
            "Which color comes first?",
            "What color is the {object} at the start?",
            "What is the first color?",
            "What color is seen at the beginning?",
            "Which color is shown at the start?",
        ),
        "last_color": (
            "What color is shown last?",
            "Which color is shown last?",
            "Which color comes last?",
            "What color is the {object} at the end?",
            "What is the last color?",
            "What color is seen at the end?",
            "Which color is shown at the end?",
        ),
        "color_count": (
            "How many colors are shown?",
            "How many different colors appear?",
            "How many colors are there?",
            "How many different colors are shown?",
            "How many colors do you see?",
            "Count the colors.",
        ),
        "color_order": (
            "List the colors in the order shown.",
            "List the colors in order.",
            "Name the colors in the order they appear.",
            "Which colors are shown, in order?",
            "What colors are shown, in order?",
            "In which order do the colors appear?",
        ),
        "color_at_sound": (
            "What color is shown {during}?",
            "Which color is shown {during}?",
            "What color was shown {during}?",
            "Which color was on screen {during}?",
            "What color is on screen {during}?",
            "What color is the {object} {during}?",
            "Which color do you see {during}?",
        ),
        "shape_at_sound": (
            "What shape is shown {during}?",
            "Which shape is shown {during}?",
            "Which shape was shown {during}?",
            "Which shape was on screen {during}?",
            "What shape is the {object} {during}?",
            "Which shape do you see {during}?",
        ),
        "sound_at_picture": (
            "What is heard while the {scene} is shown?",
            "What do you hear while the {scene} is shown?",
            "Which sound is heard while the {scene} is on screen?",
            "What sound is heard when the {scene} is shown?",
            "Which kind of sound is heard during the {scene}?",
            "What is heard when the color is {color}?",
        ),
        "place": (
            "Where is the {thing}?",
            "Where do you see the {thing}?",
            "On which side is the {thing}?",
            "In which part of the picture is the {thing}?",
        ),
        "place_in_time": (
            "Where is the {thing} {time}?",
            "Where do you see the {thing} {time}?",
            "On which side is the {thing} {time}?",
        ),
        "color_at_place": (
            "What color is the {object} {place}?",
            "Which color does the {object} {place} have?",
            "What is the color of the {object} {place}?",
        ),
        "shape_at_place": (
            "What shape is {place}?",
            "Which shape is {place}?",
            "Which shape do you see {place}?",
        ),
        "color_of_shape": (
            "What color is the {shape}?",
            "Which color does the {shape} have?",
            "What is the color of the {shape}?",
        ),
        "shape_of_color": (
            "What shape is the {color} {object}?",
            "Which shape does the {color} {object} have?",
            "Which shape is {color}?",
        ),
        "object_count": (
            "How many {group} are there?",
            "How many {group} are shown?",
            "How many {group} do you see?",
            "Count the {group}.",
        ),
        "is_there": (
            "Is there {a_thing}?",
            "Do you see {a_thing}?",
            "Is {a_thing} shown?",
        ),
        "moving_color": (
            "What color is the {object} that moves?",
            "Which color does the moving {object} have?",
            "What is the color of the {object} that is moving?",
        ),
        "direction": (
            "Which way does the {thing} move?",
            "In which direction is the {thing} moving?",
            "Where does the {thing} move?",
            "How does the {thing} move?",
        ),
        "printed_word": (
            "Which word is shown{when}?",
            "What word is shown{when}?",
            "What word is on screen{when}?",
            "Which word do you see{when}?",
            "Which word can be read{when}?",
        ),
        "printed_number": (
            "Which number is shown{when}?",
            "What number is shown{when}?",
            "What number is on screen{when}?",
            "Which number do you see{when}?",
        ),
        "printed_order": (
            "List the words in the order shown.",
            "Which words are shown, in order?",
            "What words are shown, in order?",
            "Name the words in the order they appear.",
        ),
        "word_at_place": (
            "Which word is {place}?",
            "What word is shown {place}?",
            "Which word do you see {place}?",
        ),
        "color_of_word": (
            "What color is the {thing}?",
            "In which color is the {thing} printed?",
            "Which color does the {thing} have?",
        ),
        "spoken_word": (
            "Which {noun} is said{when}?",
            "What {noun} is said{when}?",
            "Which {noun} do you hear{when}?",
            "What {noun} is spoken{when}?",
            "Which {noun} is heard{when}?",
        ),
        "spoken_order": (
            "List the words in the order they are said.",
            "Which words are said, in order?",
            "What words are spoken, in order?",
            "Name the words you hear, in order.",
        ),
        "spoken_count": (
            "How many words are said?",
            "How many words are spoken?",
            "How many words do you hear?",
            "Count the spoken words.",
        ),
        "said_while_place": (
            "Which word is said while the {thing} is {place}?",
            "What word is said when the {thing} is {place}?",
            "Which word do you hear while the {thing} is {place}?",
        ),
        "said_at_picture": (
            "Which word is said while the {scene} is shown?",
            "What word is said when the {scene} is shown?",
            "Which word do you hear while the {scene} is on screen?",
            "Which word is heard during the {scene}?",
        ),
        "color_when_said": (
            "What color is shown when {word} is said?",
            "Which color is shown when {word} is said?",
            "Which color do you see when {word} is said?",
            "What color is on screen while {word} is said?",
        ),
        "print_when_said": (
            "Which {print} is shown when {word} is said?",
            "What {print} is shown when {word} is said?",
            "Which {print} is on screen while {word} is said?",
            "Which {print} do you see when {word} is heard?",
        ),
        "print_at_sound": (
            "Which {print} is shown {during}?",
            "What {print} is shown {during}?",
            "Which {print} is on screen {during}?",
            "Which {print} do you see {during}?",
        ),
        "place_when_said": (
            "Where is the {thing} when {word} is said?",
            "Where do you see the {thing} when {word} is said?",
            "On which side is the {thing} while {word} is said?",
        ),
        "same_word": (
            "Is the word that is said the word that is shown?",
            "Is the spoken word the same as the printed word?",
            "Does the word that is said match the word that is shown?",
        ),
    }
)
