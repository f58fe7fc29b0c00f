//! What is believed of a store that loses keys and steps back.

mod batches;
mod contests;
mod damage;
mod histories;
mod lab;
mod marks;
mod operator;
mod rules;
mod steps;

use crate::store::Key;

const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}
