"""The closed sets of words that synthetic prompts and answers are made of."""

NAMES = (
    "Ada", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Nora", "Otto",
    "Paul", "Rosa", "Sam", "Tina", "Uma", "Vera", "Will", "Yara", "Zoe",
)  # fmt: skip
THINGS = (
    "apples", "books", "coins", "cups", "eggs", "hats", "keys", "nuts", "pens", "rings", "shells", "stamps",
)  # fmt: skip
WORDS = (
    "bird", "boat", "cake", "desk", "door", "fish", "frog", "gold", "hill", "jam", "king", "lamp", "moon", "nest", "owl",
    "pear", "rain", "salt", "tree", "wolf",
)  # fmt: skip
LETTERS = tuple("abcdefghkmnprstwxz")
