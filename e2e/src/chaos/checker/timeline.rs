//! A value that changes at some numbers of a realm and stands in between.

#[derive(Debug, Clone)]
pub(super) struct Timeline<T>(Vec<(u64, T)>);

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Timeline<T> {
    /// From `seq` on it is `value`; numbers only rise.
    pub(super) fn set(&mut self, seq: u64, value: T) {
        match self.0.last_mut() {
            Some((_, last)) if *last == value => {}
            Some((at, last)) if *at == seq => *last = value,
            _ => self.0.push((seq, value)),
        }
    }

    /// The value at a number; `None` before the first.
    pub(super) fn at(&self, seq: u64) -> Option<&T> {
        self.over(seq, seq).next()
    }

    /// Every value it has between two numbers, both included.
    pub(super) fn over(&self, first: u64, last: u64) -> impl Iterator<Item = &T> {
        let begin = self.0.partition_point(|(at, _)| *at <= first);
        let begin = begin.saturating_sub(1);
        let values = self.0[begin..].iter();
        values
            .take_while(move |(at, _)| *at <= last)
            .map(|(_, value)| value)
    }
}

impl Timeline<bool> {
    /// Whether it holds at any of these numbers.
    pub(super) fn ever(&self, first: u64, last: u64) -> bool {
        self.over(first, last).any(|holds| *holds)
    }

    /// Whether it holds at all of these numbers.
    pub(super) fn always(&self, first: u64, last: u64) -> bool {
        self.at(first).is_some() && self.over(first, last).all(|holds| *holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_until_the_next() {
        let mut line = Timeline::default();
        line.set(3, false);
        line.set(5, true);
        line.set(6, true);
        line.set(9, false);
        assert_eq!((line.at(2), line.at(4)), (None, Some(&false)));
        assert_eq!((line.at(5), line.at(8)), (Some(&true), Some(&true)));
        assert!(line.always(5, 8) && !line.always(5, 9) && !line.always(4, 6));
        assert!(!line.always(2, 2));
        assert!(line.ever(1, 5) && !line.ever(9, 20) && !line.ever(3, 4));
    }
}
