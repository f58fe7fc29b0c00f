//! The control socket: HTTP/1.1 and JSON; requests become intents, status is read out.
