"""The Responses API: what a request becomes, and everything that comes of it.

routes.py       the endpoints; conversations.py those of conversations
prepare.py      a request becomes a turn with its tools and its history
  input_items.py  items of the API become items of a turn
  tools.py        which tools the model is shown, and who runs them
  history.py      what was stored of earlier responses
run.py          one response from its first event to its last, and into the store
  output.py       what the model says becomes output items and their events
  events.py       the one place that says which event may follow which
  live.py         responses that run, for those who watch them
"""
