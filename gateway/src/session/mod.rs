//! Sessions: what survives a broken socket, and the life of the connection in front of it.

pub mod lifecycle;
pub mod limit;
pub mod replay;
