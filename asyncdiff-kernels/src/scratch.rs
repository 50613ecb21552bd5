//! Memory that kernels need while they run: each thread keeps what it once had.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::huge;

thread_local! {
    /// In no order: seldom more than one, where a thread that waits for others takes up a job of another kernel.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers that were last used for something else. They go back to the thread that drops them.
pub(crate) struct Scratch {
    numbers: Vec<f32>,
    length: usize,
}

impl Scratch {
    pub fn new(length: usize) -> Self {
        let fitting = FREE.with_borrow_mut(|free| {
            let fits = free.iter().position(|numbers| numbers.len() >= length);
            match fits {
                Some(index) => Some(free.swap_remove(index)),
                // Not grown, which would copy.
                None => {
                    free.pop();
                    None
                }
            }
        });
        Self {
            numbers: fitting.unwrap_or_else(|| huge::zeros(length)),
            length,
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.length]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        FREE.with_borrow_mut(|free| free.push(numbers));
    }
}
