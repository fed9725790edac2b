"""The server of one box: OpenAI's HTTP interface, and the page a health worker uses in the browser.

The way of one question
    1  guard.py      is it meant for us (Host, Origin)? headers that keep the page to itself
    2  schemas.py    JSON to a checked request; what is unknown or unsupported is named and refused
    3  room.py       a place: a slot, or one in the bounded queue, or 503 with a time
    4  chat.py       our template, the person's words in the user role alone, token ids, their number checked
    5  answer.py     the engine's events, brought from its thread to this event loop
    6  stream.py     server-sent events; exactly one terminal event, then [DONE]
One flag travels back: the client is gone, so the engine is told to cancel.
No text of a question or an answer is ever logged.
"""
