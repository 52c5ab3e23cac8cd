//! Draws what is known. Pure: the same state gives the same screen.

mod frame;
mod lists;
mod overview;
mod theme;
mod times;

pub(super) use frame::draw;
pub(super) use theme::Theme;

#[cfg(test)]
mod tests;
