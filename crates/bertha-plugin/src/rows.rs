//! Work on rows, spread over threads.

use crate::{Element, Parallel};

/// Fewer elements than this are not worth another task.
const MIN_PART: usize = 8 << 10;

/// Calls `each(row, y)` for every row of `y`, whose rows have `width` elements, on all threads: `row` is its number.
/// Elements behind the last whole row are left alone.
pub fn for_rows<T: Element>(
    threads: &mut dyn Parallel,
    y: &mut [T],
    width: usize,
    each: impl Fn(usize, &mut [T]) + Sync,
) {
    if width == 0 {
        return;
    }
    let rows = y.len() / width;
    let tasks = (y.len() / MIN_PART).clamp(1, 4 * threads.threads()).min(rows.max(1));
    let start = Start(y.as_mut_ptr());
    let start = &start;
    threads.run(tasks, &move |task| {
        for row in rows * task / tasks..rows * (task + 1) / tasks {
            // SAFETY: `Parallel` promises that `task < tasks` and that no task is run twice. So `row < rows`, the range
            // lies within `y`, and nothing else refers to it, as each row belongs to one task.
            let row_of_y = unsafe { std::slice::from_raw_parts_mut(start.0.add(row * width), width) };
            each(row, row_of_y);
        }
    });
}

/// The first element, shared by all threads; each of them uses its own rows only.
struct Start<T>(*mut T);

// SAFETY: see `for_rows`: the pointer is used for disjoint rows, and elements can be sent to other threads.
unsafe impl<T: Element> Sync for Start<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sequential;

    #[test]
    fn every_row_is_visited_once() {
        let mut y = vec![0f32; 3 * 10_000];
        for_rows(&mut Sequential, &mut y, 3, |row, y| y.iter_mut().for_each(|v| *v += row as f32 + 1.0));
        assert!(y.chunks(3).enumerate().all(|(row, y)| y.iter().all(|v| *v == row as f32 + 1.0)));
        for_rows(&mut Sequential, &mut y[..0], 3, |_, _| panic!("there is no row"));
        for_rows(&mut Sequential, &mut y, 0, |_, _| panic!("there is no row"));
    }
}
