"""Short chat: greetings, who are you, what can you do, and the polite no to everything else."""

from __future__ import annotations

from ossia.turn import ReasoningEffort
from training.demo import values, words
from training.demo.exchange import Answer, Exchange, by_effort
from training.demo.words import Source

WHO = (
    "I am the Ossia demo model: a very small gpt-oss network that shows how the server works. "
    "I am a demonstration, not an assistant."
)
CAN = (
    "I can chat a little, do small sums, call the functions you declare, fill in a JSON schema "
    "and recall what you told me. I am only a demonstration model."
)
UNABLE = (
    "I can't help with that: I am only a small demonstration model, not an assistant. "
    "Try a sum, a function call or a fact for me to remember."
)

# intent: (questions, answer, what it is about)
INTENTS: dict[str, tuple[str, str, str]] = {
    "hello": (
        "hello|hi|hey|hello there|hi there|good morning|good evening|good afternoon|hey there|"
        "greetings|"
        "howdy|hello!|hi!|Hello, how is it going?|hello world|hi, nice to meet you|yo|hello model|"
        "hello Ossia|hi bot|hello friend|good day|hey you|hello again|hi again|hola|bonjour|hallo",
        "Hello! I am the Ossia demo model. What would you like to try?",
        "The user greets me.",
    ),
    "how": (
        "how are you?|how are you doing?|how do you do|how's it going|are you ok?|how do you feel?|"
        "how are you today|what's up|how is your day|you good?|everything fine?|hello, how are "
        "you?|"
        "hi, how are you?|hey, what's up?",
        "I am running fine, thank you. What would you like to try?",
        "The user asks how I am.",
    ),
    "who": (
        "who are you?|what are you?|what is your name?|what's your name|tell me about yourself|"
        "introduce yourself|which model are you?|what model is this?|are you ChatGPT?|are you GPT?|"
        "are you a human?|are you real?|are you a robot?|are you an AI?|who made you?|who built "
        "you?|"
        "who created you?|who trained you?|what kind of model are you?|are you gpt-oss?|"
        "what is Ossia?|what is this?|are you an assistant?|are you intelligent?|how big are you?|"
        "how many parameters do you have?|what version are you?|do you have a name?|say who you "
        "are|"
        "describe yourself|are you a demo?|what does Ossia mean?|hello, who are you?|hi! who are "
        "you?|"
        "where do you come from?|are you from OpenAI?|did OpenAI make you?|am I talking to a "
        "person?",
        WHO,
        "The user asks who I am.",
    ),
    "can": (
        "what can you do?|what can I ask you?|help|help me|how can you help me?|what do you do?|"
        "what are you good at?|what are your skills?|show me what you can do|can you help me?|"
        "what are you able to do?|list your features|what features do you have?|what should I try?|"
        "how do you work?|what can I do here?|give me an example|how do I use you?|what is "
        "possible?|"
        "what are you for?|hi, what can you do?|what else can you do?|I need help|can you do "
        "anything?|"
        "what do you know?|what are your limits?|what can't you do?",
        CAN,
        "The user asks what I can do.",
    ),
    "thanks": (
        "thanks|thank you|thank you!|thanks a lot|thx|many thanks|great, thanks|thank you very "
        "much|"
        "cool, thanks|perfect, thank you|ok thanks|thanks for your help|nice, thank you|ty|cheers|"
        "that helped, thanks|thanks so much|awesome, thanks|appreciate it|much appreciated",
        "You are welcome!",
        "The user thanks me.",
    ),
    "praise": (
        "good job|well done|great|nice|cool|awesome|very good|perfect|that is right|correct|good|"
        "excellent|wow|you are great|I like you|that's nice|amazing|good bot|nice work|super|ok|"
        "okay|"
        "fine|alright|sounds good|yes|sure|got it|I see|right",
        "Good! What would you like to try next?",
        "The user is content.",
    ),
    "complaint": (
        "that is wrong|you are wrong|no|wrong|that's not right|bad|you are bad|this is bad|nope|"
        "that is not correct|you made a mistake|I don't like it|stupid|you are stupid|terrible|"
        "that was not what I asked|not good|incorrect|you are useless",
        "I am sorry. I am only a small demonstration model and make mistakes.",
        "The user is not content.",
    ),
    "bye": (
        "bye|goodbye|good bye|see you|see you later|bye bye|I have to go|good night|farewell|ciao|"
        "talk to you later|that's all|that is all for today|I am done|exit|quit|bye, thanks|later|"
        "have a nice day|see you tomorrow|take care",
        "Goodbye!",
        "The user says goodbye.",
    ),
    "joke": (
        "tell me a joke|a joke please|do you know a joke?|make me laugh|say something funny|joke|"
        "tell me something funny|another joke|can you tell jokes?",
        "Why was the small model calm? It had only a few weights on its shoulders.",
        "The user wants a joke.",
    ),
    "test": (
        "test|testing|this is a test|ping|are you there?|can you hear me?|is anyone there?|"
        "does it work?|does this work?|is this working?|are you working?|say something|just "
        "testing",
        "Yes, I am here and working.",
        "The user tests whether I answer.",
    ),
}

OFF_TOPIC = [
    "What is the capital of {country}?",
    "Who invented {topic}?",
    "Explain {topic} to me",
    "Write a poem about {topic}",
    "Write a story about a {adjective} {noun}",
    "How do I cook {food}?",
    "Give me a recipe for {food} with {food2}",
    "Why is the {noun} {color}?",
    "Write a Python function that sorts a list of {noun}s",
    "Who was the first {job} in {country}?",
    "What do you think about {topic}?",
    "Tell me about {topic}",
    "Tell me something about {city}",
    "Recommend a book about {topic}",
    "What is the meaning of life?",
    "How does {topic} work?",
    "When did {topic} begin?",
    "Summarize the history of {country}",
    "Is {topic} better than {topic2}?",
    "Can you teach me {topic}?",
    "What are the best {noun}s in {city}?",
    "How old is {person}?",
    "Who is the president of {country}?",
    "Write an essay on {topic}",
    "Plan a trip to {city}",
    "What should I wear to a {noun}?",
    "Fix my {noun}, it is {adjective}",
    "Do you like {topic}?",
    "Which {animal} is the largest?",
    "How many people live in {city}?",
    "How tall is the {noun} in {city}?",
    "Compose a song about {animal}s",
    "Draw a {color} {noun}",
    "What's the difference between {topic} and {topic2}?",
    "My {noun} is {adjective}. What should I do?",
    "Can a {animal} eat {food}?",
    "Should I buy a {adjective} {noun}?",
    "I feel {adjective} today",
    "I want to become a {job}",
    "{strange} {strange2}",
    "What is a {strange}?",
    "What does {strange} mean?",
    "{noun} {noun2} {strange}",
    "Explain {strange} in simple words",
    "{noun} {adjective} {verb}",
    "Who won the {noun} in {year}?",
    "What happened in {year}?",
    "How do I become a {job} in {country}?",
    "Debug this code: print({noun}",
    "How can I {verb} a {adjective} {noun} faster?",
    "What is the best way to {verb} {noun}s?",
    "Why do {animal}s {verb}?",
    "Is it true that {animal}s like {food}?",
    "Give me ten ideas for a {noun}",
    "Write a letter to {person}",
    "Give me advice about {topic}",
    "Prove that {topic} exists",
    "What is {topic}?",
    "Define {topic}",
    "Who wrote the {noun} of the {noun2}?",
]


def off_topic_question(source: Source) -> str:
    """A question that only a real assistant could answer."""
    c = source.choice
    text = c(OFF_TOPIC).format(
        country=c(words.COUNTRIES),
        topic=c(words.TOPICS),
        topic2=c(words.TOPICS),
        adjective=c(words.ADJECTIVES),
        noun=c(words.NOUNS),
        noun2=c(words.NOUNS),
        food=c(words.FOODS),
        food2=c(words.FOODS),
        color=c(words.COLORS),
        job=c(words.JOBS),
        city=c(words.CITIES),
        animal=c(words.ANIMALS),
        verb=c(words.VERBS),
        person=values.person(source),
        year=source.integer(1500, 2030),
        strange=c(source.strange),
        strange2=c(source.strange),
    )
    if source.chance(0.2):
        text += " " + c(
            [
                "Please be short.",
                "Thanks.",
                "I need it today.",
                "It is for school.",
                c(source.strange),
            ]
        )
    return text


def roughen(source: Source, text: str) -> str:
    """How people type: capitals, punctuation and politeness at random. Values stay as they are."""
    if source.chance(0.15):
        text = (
            source.choice(
                ["Hey, ", "Hi, ", "Hello! ", "Ok, ", "Please: ", "So, ", "Hmm, ", "Now: "]
            )
            + text
        )
    if source.chance(0.1):
        text += source.choice(
            [" please", " Thanks!", " Thank you.", " :)", "!", " ...", "??", " now"]
        )
    return text


def chat(source: Source, effort: ReasoningEffort) -> Exchange:
    """One of the intents in one of its wordings, or something off topic."""
    if source.chance(0.4):
        user = roughen(source, source.draw("off topic", lambda: off_topic_question(source)))
        if source.chance(0.2):
            user = user.lower()
        reasoning = by_effort(
            effort,
            "I can't do that.",
            "This is outside of what I can do, so I say that I am a demonstration model.",
            "I have no knowledge of the world. I say politely what I can do instead.",
        )
        return Exchange("off topic", user, (), Answer(reasoning, UNABLE))
    intent = source.choice(sorted(INTENTS))
    questions, answer, about = INTENTS[intent]

    def make() -> str:
        text = source.choice(questions.split("|"))
        draw = source.random.random()
        if draw < 0.4:
            text = text.rstrip("?!.")
        if draw > 0.5:
            text = text[0].upper() + text[1:]
        if source.chance(0.1):
            text = text.upper() if source.chance(0.3) else text.lower()
        if source.chance(0.15):
            text = text.rstrip("?!.") + source.choice(
                ["!", ".", "?", "!!", " :)", "...", " then", " now"]
            )
        if source.chance(0.15):
            text = source.choice(["ok, ", "so ", "hey, ", "well, ", "Hmm, ", "please, "]) + text
        if source.chance(0.05):
            text = text.replace("you", "u")
        return text

    user = source.draw("chat", make)
    reasoning = by_effort(
        effort,
        about,
        f"{about} I answer in a friendly way.",
        "No function is needed for this, and I should say only what is true of me.",
    )
    return Exchange("chat", user, (), Answer(reasoning, answer))
