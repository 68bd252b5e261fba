"""What the model may write in a turn, as one grammar: its text, its schemas, and the compiler.

text.py        the rules of the turn: channels, recipients, headers
formats.py     what stands inside of them: arguments, and a formatted answer
schema.py      a JSON schema in our own words, which say no more than it does; keywords.py reads
               its keywords, the other files each write a kind of value or condition
lark.py        a user's own grammar
check.py       llguidance's verdict, and faults.py the place of a fault
compiler.py    all of it, with limits and a cache
"""

from ossia.harmony.grammar.compiler import GrammarCompiler
from ossia.harmony.grammar.paths import CHAT_PATHS, FieldPaths
from ossia.harmony.grammar.text import TurnGrammar, turn_grammar

__all__ = ["CHAT_PATHS", "FieldPaths", "GrammarCompiler", "TurnGrammar", "turn_grammar"]
