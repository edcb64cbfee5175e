//! Configuration as operators meet it: the sample file, the documents, and a start that cannot work.

mod documents;
mod secrets;
mod start;
