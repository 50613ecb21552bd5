//! An HTTP service that keeps a model loaded, and its page.

#![deny(missing_docs)]

mod page;
