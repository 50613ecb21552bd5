//! Memory that kernels need while they run: each thread keeps what it once had.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `length` numbers, whatever they are.
pub(crate) fn with<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut numbers = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if numbers.len() < length {
        // Not grown, which would copy.
        drop(std::mem::take(&mut numbers));
        numbers = vec![0.0; length];
    }
    let result = work(&mut numbers[..length]);
    FREE.with_borrow_mut(|free| free.push(numbers));
    result
}
