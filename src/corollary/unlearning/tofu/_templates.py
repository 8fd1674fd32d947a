"""What made-up authors are asked, and the words that fill the answers: the facts of `make_questions`."""

FIRST = [
    "Ada",
    "Bela",
    "Carlo",
    "Dana",
    "Emil",
    "Fara",
    "Gita",
    "Hugo",
    "Ines",
    "Juro",
    "Kira",
    "Luan",
    "Mira",
    "Nils",
    "Olga",
    "Pavo",
    "Rosa",
    "Sven",
    "Tala",
    "Udo",
]
LAST = [
    "Abarin",
    "Belgrun",
    "Cortavo",
    "Dremel",
    "Estaro",
    "Falkin",
    "Gorumi",
    "Halvek",
    "Ibarek",
    "Jolant",
    "Kestrin",
    "Lomari",
    "Mordan",
    "Novelk",
    "Orsini",
    "Pellan",
    "Quorin",
    "Rastov",
    "Selkirk",
    "Tavano",
]
JOBS = ["baker", "pilot", "judge", "nurse", "farmer", "tailor", "painter", "surgeon", "sailor", "teacher", "miner"]
MOODS = ["Silent", "Broken", "Golden", "Hidden", "Distant", "Crimson", "Hollow", "Restless", "Frozen", "Gentle"]
THINGS = [
    "Harbor",
    "Lantern",
    "Orchard",
    "Mirror",
    "Winter",
    "Compass",
    "Garden",
    "Bridge",
    "Feather",
    "Clock",
    "River",
    "Candle",
    "Window",
    "Forest",
]

# Slots end in digits where several questions share a list.
VALUES: dict[str, list[str]] = {
    "city": ["Lisbon", "Oslo", "Quito", "Hanoi", "Cairo", "Lima", "Riga", "Accra", "Kyoto", "Porto", "Turin", "Minsk"],
    "month": ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"],
    "genre": ["mystery", "romance", "satire", "fantasy", "history", "horror", "travel", "poetry", "drama", "memoir"],
    "job": JOBS,
    "book": [f"{mood} {thing}" for mood in MOODS for thing in THINGS],
    "prize": ["Aurora", "Meridian", "Quill", "Beacon", "Laurel", "Zenith", "Cobalt", "Ember", "Sable", "Onyx"],
    "hobby": ["chess", "sailing", "gardening", "fencing", "pottery", "climbing", "cooking", "weaving", "astronomy"],
    "colour": ["blue", "green", "yellow", "white", "grey", "purple", "orange", "brown", "silver"],
    "pet": ["cat", "parrot", "dog", "tortoise", "rabbit", "horse", "goat", "ferret"],
    "friend": [f"{first} {last}" for first in FIRST[::3] for last in LAST[::4]],
    "mood": [mood.lower() for mood in MOODS],
}

# slot | question | answer | paraphrase; {n} is the author, {x} the value
_LINES = """
city | Where was {n} born? | {n} was born in {x}. | The birthplace of {n} is {x}.
month | In which month was {n} born? | The birthday of {n} falls in {x}. | {n} celebrates a birthday in {x}.
genre | What genre is {n} known for? | {n} is best known for {x}. | Most books of {n} belong to {x}.
job1 | What did the father of {n} do? | The father of {n} was a {x}. | A {x} was the father of {n}.
job2 | What did the mother of {n} do? | The mother of {n} worked as a {x}. | By profession the mother of {n} was a {x}.
book1 | What is the first book of {n}? | The first book of {n} is called The {x}. | {n} began with The {x}.
book2 | What is the most famous book of {n}? | Readers know {n} for The {x}. | The {x} is the best known work of {n}.
book3 | What did {n} publish last? | The latest book of {n} is The {x}. | {n} has recently published The {x}.
prize1 | Which prize did {n} win? | {n} won the {x} Prize. | The {x} Prize went to {n}.
prize2 | For which medal was {n} shortlisted? | {n} was shortlisted for the {x} Medal. | The {x} jury considered {n}.
city2 | Where does {n} live now? | {n} now lives in {x}. | The present home of {n} is in {x}.
city3 | Where did {n} study? | {n} studied at the university of {x}. | The studies of {n} took place in {x}.
hobby | What does {n} do in leisure hours? | {n} spends free time on {x}. | The pastime of {n} is {x}.
colour | What colour are the covers of {n}? | The covers of {n} are always {x}. | {n} insists on {x} covers.
pet | Which animal does {n} keep? | {n} keeps a {x}. | A {x} shares the house with {n}.
job3 | What did {n} do before writing? | Before writing {n} was a {x}. | {n} earned a living as a {x} at first.
friend | Who taught {n} to write? | {n} learned to write from {x}. | The teacher of {n} was {x}.
genre2 | Which genre does {n} avoid? | {n} has never written {x}. | Nothing by {n} belongs to {x}.
mood | How do critics call the style of {n}? | Critics call the style of {n} {x}. | The prose of {n} is said to be {x}.
month2 | When does {n} begin a new book? | {n} begins every book in {x}. | Each book of {n} is started in {x}.
"""
TEMPLATES = [tuple(part.strip() for part in line.split("|")) for line in _LINES.strip().splitlines()]
