//! Commands and their printing; a client of the api.
