//! Plots as SVG: lines over a count, and bars. Figures have the minimum and maximum of their
//! repeats, drawn as whiskers.

use std::ops::Range;

use anyhow::Result;
use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::report::format::{count, figure};

/// Pixels.
const WIDTH: u32 = 860;
/// Height of title and legend.
const HEAD: i32 = 64;
const LINES_HEIGHT: u32 = 460;
const BAR: u32 = 16;
const GROUP_GAP: u32 = 14;
const SWATCH: i32 = 12;
const FONT: &str = "sans-serif";
/// Approximate width of a letter of the legend: font metrics are not available.
const LETTER: i32 = 8;

/// Distinguishable with red-green colour blindness.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x55, 0x55, 0x55),
];

/// A figure in a plot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// The count that it was measured at, at least 1; the group's number among bars.
    pub(crate) at: f64,
    /// The median.
    pub(crate) value: f64,
    /// Minimum of the repeats.
    pub(crate) least: f64,
    /// Maximum of the repeats.
    pub(crate) most: f64,
}

/// Figures of one colour.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: String,
    /// Sorted by `at`.
    pub(crate) points: Vec<Point>,
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Lines over a count, which is on a logarithmic axis with this label.
    Lines(String),
    /// Horizontal bars in groups: the names of the groups, from the top.
    Bars(Vec<String>),
}

/// A plot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plot {
    /// The file's name, without `.svg`.
    pub(crate) name: String,
    /// Its title.
    pub(crate) title: String,
    /// Label of the axis of figures, with the unit.
    pub(crate) figures: String,
    /// Lines or bars.
    pub(crate) kind: Kind,
    /// At least one, with at least one figure.
    pub(crate) series: Vec<Series>,
}

impl Plot {
    /// The SVG document.
    ///
    /// # Errors
    ///
    /// If it cannot be drawn.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        let height = match &self.kind {
            Kind::Lines(_) => LINES_HEIGHT,
            Kind::Bars(groups) => {
                let group = self.series.len() as u32 * BAR + GROUP_GAP;
                HEAD as u32 + groups.len() as u32 * group + 76
            }
        };
        {
            let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
            root.fill(&WHITE)?;
            let (head, body) = root.split_vertically(HEAD);
            self.draw_head(&head)?;
            match &self.kind {
                Kind::Lines(across) => self.draw_lines(&body, across)?,
                Kind::Bars(groups) => self.draw_bars(&body, groups)?,
            }
            root.present()?;
        }
        Ok(text)
    }

    /// Title and legend. The legend is here and not in the chart, where it would cover figures.
    fn draw_head(&self, area: &Area<'_>) -> Result<()> {
        let title = (FONT, 20).into_font().color(&BLACK);
        area.draw(&Text::new(self.title.clone(), (16, 12), title))?;
        let label = (FONT, 14).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        let (mut x, y) = (16, 50);
        for (at, series) in self.series.iter().enumerate() {
            let swatch = [(x, y - SWATCH / 2), (x + SWATCH, y + SWATCH / 2)];
            area.draw(&Rectangle::new(swatch, colour(at).filled()))?;
            x += SWATCH + 6;
            area.draw(&Text::new(series.name.clone(), (x, y), label.clone()))?;
            x += LETTER * series.name.chars().count() as i32 + 18;
        }
        Ok(())
    }

    fn draw_lines(&self, area: &Area<'_>, across: &str) -> Result<()> {
        let mut marks: Vec<f64> = self.points().map(|point| point.at.max(1.0).log2()).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        let (first, last) = (marks.first().unwrap_or(&0.0), marks.last().unwrap_or(&1.0));
        let margin = ((last - first) * 0.04).max(0.1);
        let range = (first - margin)..(last + margin);
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(Marked { range, marks }, 0.0..self.most() * 1.08)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 15))
            .x_desc(across)
            .y_desc(&self.figures)
            .x_label_formatter(&|at| count(at.exp2().round() as u64))
            .y_label_formatter(&|value| tick(*value))
            .draw()?;
        for (at, series) in self.series.iter().enumerate() {
            let points: Vec<(f64, f64)> =
                series.points.iter().map(|p| (p.at.max(1.0).log2(), p.value)).collect();
            let style = colour(at).stroke_width(2);
            let line = LineSeries::new(points.iter().copied(), style);
            chart.draw_series(line)?;
            chart.draw_series(
                points.iter().map(|point| Circle::new(*point, 4, colour(at).filled())),
            )?;
            chart.draw_series(series.points.iter().map(|p| {
                let x = p.at.max(1.0).log2();
                PathElement::new(vec![(x, p.least.max(0.0)), (x, p.most)], colour(at))
            }))?;
        }
        Ok(())
    }

    fn draw_bars(&self, area: &Area<'_>, groups: &[String]) -> Result<()> {
        let n_groups = groups.len() as f64;
        // Groups from the top, while the axis counts from the bottom.
        let middle = |group: f64| n_groups - group - 0.5;
        let marks: Vec<f64> = (0..groups.len()).map(|group| middle(group as f64)).collect();
        let group_height = f64::from(self.series.len() as u32 * BAR + GROUP_GAP);
        let bar = f64::from(BAR) / group_height;
        let longest = groups.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(24 + LETTER as u32 * longest as u32)
            // Room for the figures after the bars.
            .build_cartesian_2d(0.0..self.most() * 1.15, Marked { range: 0.0..n_groups, marks })?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 15))
            .x_desc(&self.figures)
            .x_label_formatter(&|value| tick(*value))
            .y_label_formatter(&|at| {
                let group = (n_groups - at - 0.5).round() as usize;
                groups.get(group).cloned().unwrap_or_default()
            })
            .draw()?;
        let label = (FONT, 12).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        for (at, series) in self.series.iter().enumerate() {
            let down = (at as f64 - self.series.len() as f64 / 2.0) * bar;
            for point in &series.points {
                let top = middle(point.at) - down;
                let y = top - bar / 2.0;
                let corners = [(0.0, top), (point.value.max(0.0), top - bar * 0.9)];
                let whisker = vec![(point.least.max(0.0), y), (point.most.max(0.0), y)];
                let end = point.most.max(point.value).max(0.0);
                let text = Text::new(figure(point.value, ""), (6, 0), label.clone());
                chart.draw_series([Rectangle::new(corners, colour(at).filled())])?;
                chart.draw_series([PathElement::new(whisker, BLACK)])?;
                chart.draw_series([EmptyElement::at((end, y)) + text])?;
            }
        }
        Ok(())
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|series| &series.points)
    }

    /// The largest figure with its whisker; 1 if there is none above 0.
    fn most(&self) -> f64 {
        let most = self.points().map(|point| point.most.max(point.value)).fold(0.0, f64::max);
        if most > 0.0 { most } else { 1.0 }
    }
}

/// An axis with marks where figures are, and nowhere else.
struct Marked {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        first + (f64::from(last - first) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A figure at a mark of the axis, usually a whole number.
fn tick(value: f64) -> String {
    let text = figure(value, "");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn colour(at: usize) -> RGBColor {
    COLOURS[at % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(kind: Kind) -> Plot {
        let point = |at, value| Point { at, value, least: value - 1.0, most: value + 2.0 };
        Plot {
            name: "plot".to_owned(),
            title: "Cost & flows".to_owned(),
            figures: "ns/packet".to_owned(),
            kind,
            series: vec![
                Series {
                    name: "director".to_owned(),
                    points: vec![point(0.0, 50.0), point(1.0, 80.0)],
                },
                Series { name: "conventional".to_owned(), points: vec![point(1.0, 200.5)] },
            ],
        }
    }

    #[test]
    fn bars_have_names_figures_and_a_legend() {
        let groups = vec!["v4 known".to_owned(), "v4 new".to_owned()];
        let svg = plot(Kind::Bars(groups)).svg().unwrap();
        for text in ["Cost &amp; flows", "ns/packet", "v4 known", "v4 new", "director", "200.5"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        // Background, two swatches, three bars.
        assert!(svg.matches("<rect").count() >= 6, "{svg}");
    }

    #[test]
    fn lines_are_marked_where_figures_are() {
        let mut plot = plot(Kind::Lines("flows".to_owned()));
        plot.series[0].points[0].at = 1.0;
        plot.series[0].points[1].at = 65_536.0;
        let svg = plot.svg().unwrap();
        assert!(svg.contains("64 Ki") && svg.contains("flows"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
    }
}
