"""The engine in this process, without a server: a batch of conversations with a progress bar."""

from ossia import LLM, SamplingParams

llm = LLM("demo")
questions = ["What is 12 + 30?", "What is 55 + 26?", "Who are you?"]
conversations = [[{"role": "user", "content": question}] for question in questions]
outputs = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=200))
for question, output in zip(questions, outputs, strict=True):
    print(f"{question} -> {output.text}   ({output.reasoning})")
