"""The closed sets of words that synthetic prompts and answers are made of."""

NAMES = (
    "Ada", "Amy", "Ann", "Ben", "Bob", "Carl", "Dan", "Dora", "Eli", "Emma", "Eva", "Finn", "Gina", "Hugo", "Ian", "Ida",
    "Ivy", "Jack", "Jane", "Joe", "John", "Kate", "Kim", "Leo", "Lily", "Lucy", "Mary", "Max", "Mia", "Nina", "Nora", "Otto",
    "Paul", "Rosa", "Ruth", "Sam", "Tina", "Tom", "Uma", "Zoe",
)  # fmt: skip
THINGS = ("apples", "books", "coins", "cups", "eggs", "hats", "keys", "pens")
WORDS = ("bird", "boat", "cake", "door", "fish", "frog", "jam", "lamp", "moon", "rain", "salt", "tree")
LETTERS = tuple("abcdefghkmnp")
