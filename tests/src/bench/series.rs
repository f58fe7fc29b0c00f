//! Figures of one kind, and what they say together. Pure.

use serde::Serialize;

/// Figures of one kind, in the order in which they were measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Series(Vec<f64>);

impl Series {
    /// Takes one more figure.
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle one; the mean of the two middle ones of an even number; nothing of none.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// The figure that this part of them does not exceed.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few figures"
    )]
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let sorted = self.sorted();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((last as f64 * part).ceil() as usize).copied()
    }

    /// The quartiles around the median: half of the figures are between them.
    #[must_use]
    pub fn quartiles(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        let last = sorted.len().checked_sub(1)?;
        Some((sorted[last / 4], sorted[last - last / 4]))
    }

    /// Half the distance of the quartiles, in per cent of the median.
    #[must_use]
    pub fn spread_percent(&self) -> Option<f64> {
        let (low, high) = self.quartiles()?;
        self.median().filter(|median| *median != 0.0).map(|median| (high - low) / 2.0 / median * 100.0)
    }

    /// Figure by figure, `self` less `other`: neighbours in time.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// Figure by figure, `self` divided by `other`: neighbours in time, so that what slows down both does not show.
    #[must_use]
    pub fn divided_by(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_of_none_there_is_none() {
        assert_eq!([3.0, 1.0, 2.0].into_iter().collect::<Series>().median(), Some(2.0));
        assert_eq!([4.0, 1.0, 2.0, 3.0].into_iter().collect::<Series>().median(), Some(2.5));
        assert_eq!(Series::default().median(), None);
        assert_eq!(Series::default().spread_percent(), None);
    }

    #[test]
    fn half_of_the_figures_are_between_the_quartiles() {
        let series: Series = [10.0, 20.0, 30.0, 40.0, 1000.0].into_iter().collect();
        assert_eq!(series.quartiles(), Some((20.0, 40.0)));
    }

    #[test]
    fn a_ratio_is_of_neighbours_in_time() {
        let (ours, peer): (Series, Series) = ([10.0, 5.0].into_iter().collect(), [5.0, 2.5].into_iter().collect());
        assert_eq!(ours.divided_by(&peer).median(), Some(2.0));
    }
}
