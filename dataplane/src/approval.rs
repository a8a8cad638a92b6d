//! Questions to a person.
