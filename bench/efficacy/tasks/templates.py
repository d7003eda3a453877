"""Question, context and answer of t0's extractive questions, from the prompts that they were written into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# By the end of a task's name, its prompt; what stands for {_} is of no interest.
_QUOREF = {
    "Answer_Friend_Question": "A friend asked me to answer this question: {question}, using the article: {context}, "
    "what would be the answer ?",
    "Answer_Question_Given_Context": "Given the following context:\n\n{context}\n\nanswer the following question:\n\n"
    "{question}",
    "Answer_Test": "I have a test where I am given the following article, what is an answer for the question: "
    "{question} ?\n\n{context}",
    "Context_Contains_Answer": "This article: {context} contains an answer for the question: {question}, what is it ?",
    "Find_Answer": "The following article contains an answer for the question: {question} , can you please find it? "
    "\n\n{context}",
    "Found_Context_Online": "Found the following article online, use it to answer the question: {question}\n\n"
    "{context}",
    "Given_Context_Answer_Question": "{question}\n\nAnswer the above question based on the context below:\n\n{context}",
    "Guess_Answer": "The answer to the question: {question} is inside the article: {context}, can you guess it ?",
    "Read_And_Extract_": "Read the following paragraph and extract the answer for the question: {question}\n\n"
    "{context}",
    "What_Is_The_Answer": "What is the answer for the question: {question} from the following article ?\n\n{context}",
}
_ADVERSARIAL = {
    "answer_the_following_q": 'Given the following passage\n\n"{context}",\n\nanswer the following question. Note that '
    "the answer is present within the text.\n\nQuestion: {question}",
    "based_on": "Extract the answer to the question from the following context.\nQuestion: {question}\n"
    "Context: {context}",
    "question_context_answer": 'Question: "{question}"\n\nContext: "{context}"\n\nAnswer:',
    "tell_what_it_is": 'I know that the answer to the question "{question}" is in "{context}". Can you tell me what it '
    "is?",
}
_DUORC = {
    "answer_question": "Please answer the following question about this movie plot. {_}\n\nQuestion: {question}\n"
    "Movie plot title: {_}\nMovie plot: {context}",
    "extract_answer": "Extract the answer to the following question from the movie plot. {_}\nQuestion: {question}\n"
    "Title: {_}\nMovie plot: {context}",
    "question_answering": "Question: {question}\n{_}\nMovie title: {_}\nContext: {context}",
}


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)
    made = [re.escape(text) if i % 2 == 0 else _hole(text) for i, text in enumerate(pieces)]
    return re.compile("".join(made), re.DOTALL)


def _hole(name: str) -> str:
    return ".*?" if name == "_" else f"(?P<{name}>.+?)"


_PATTERNS = {
    **{f"quoref_{end}": _pattern(text) for end, text in _QUOREF.items()},
    **{
        f"adversarial_qa_{model}_{end}": _pattern(text)
        for model in ("dbert", "dbidaf", "droberta")
        for end, text in _ADVERSARIAL.items()
    },
    **{f"duorc_{kind}_{end}": _pattern(text) for kind in ("ParaphraseRC", "SelfRC") for end, text in _DUORC.items()},
}


@dataclass(frozen=True)
class Question:
    """A question whose right answer is a span of its context. `prompt` is all that a model is asked."""

    prompt: str
    question: str
    context: str
    answer: str

    @property
    def group(self) -> str:
        """See Row: rows of one context are on one side."""
        return self.context

    @property
    def wording_of(self) -> str:
        """See Row: t0 asks every question in up to ten wordings."""
        return self.question


def questions(records: Iterable[Mapping[str, str]]) -> Iterator[Question]:
    """Of t0's rows (`task`, `instruction`, `output`), those that ask for a span of a context, each prompt once."""
    seen: set[str] = set()
    for record in records:
        pattern = _PATTERNS.get(record["task"])
        prompt, answer = record["instruction"].strip(), record["output"].strip()
        found = pattern.fullmatch(prompt) if pattern else None
        if found is None or prompt in seen or not answer or answer not in found["context"]:
            continue
        seen.add(prompt)
        yield Question(prompt, found["question"].strip(), found["context"].strip(), answer)
