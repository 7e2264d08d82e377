//! Plots as SVG: lines and points over linear or logarithmic axes, with ticks, units and a
//! legend. A picture is text of its own; it needs no script and no network.
//!
//! Knows nothing of experiments. Numbers go to a tenth of a pixel, so the same points give the
//! same bytes on every machine.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 52.0;
const LEGEND_LINE: f64 = 20.0;

/// Okabe and Ito's colours without the yellow, which vanishes on white: told apart by the
/// colour-blind. The markers' shapes differ too.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// What is not above zero has no place, and is left out.
    Logarithmic,
}

#[derive(Debug, Clone)]
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) label: String,
    pub(crate) scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// What was measured: points, joined by a line.
    Measured,
    /// What somebody worked out: a dashed line without points.
    Theory,
}

#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) label: String,
    pub(crate) style: Style,
    /// Which series it belongs to, and has the colour of; none has its own.
    pub(crate) like: Option<usize>,
    /// In the order in which they are joined.
    pub(crate) points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// From numbers to pixels, and where the ticks are.
struct Mapping {
    scale: Scale,
    low: f64,
    high: f64,
    pixels: (f64, f64),
    ticks: Vec<f64>,
}

impl Mapping {
    fn over(numbers: impl Iterator<Item = f64>, scale: Scale, pixels: (f64, f64), from_zero: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.filter(|number| fits(*number, scale)) {
            (low, high) = (low.min(number), high.max(number));
        }
        if low > high {
            (low, high) = (1.0, 10.0); // Nothing to show: an empty chart, still with axes.
        }
        let ticks = match scale {
            Scale::Linear => {
                if from_zero {
                    low = low.min(0.0);
                }
                if low == high {
                    high = low + if low == 0.0 { 1.0 } else { low.abs() };
                }
                linear_ticks(low, high)
            }
            Scale::Logarithmic => logarithmic_ticks(low, high),
        };
        // From tick to tick, so that the axis ends at a number that can be read.
        let (low, high) = (low.min(ticks[0]), high.max(ticks[ticks.len() - 1]));
        Self { scale, low, high, pixels, ticks }
    }

    fn pixel(&self, number: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (number - self.low) / (self.high - self.low),
            Scale::Logarithmic => (number / self.low).ln() / (self.high / self.low).ln(),
        };
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }
}

fn fits(number: f64, scale: Scale) -> bool {
    number.is_finite() && (scale == Scale::Linear || number > 0.0)
}

/// Four to nine ticks at 1, 2 or 5 times a power of ten, the outermost at or beyond the ends.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    (0..=(last - first) as usize).map(|index| (first + index as f64) * step).collect()
}

/// Powers of ten; over less than two of them 2 and 5 times them too.
fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = ((low.log10() + 1e-9).floor() as i32, (high.log10() - 1e-9).ceil() as i32);
    let last = last.max(first + 1);
    let times: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks: Vec<f64> = (first..=last)
        .flat_map(|power| times.iter().map(move |times| times * 10_f64.powi(power)))
        .filter(|tick| *tick <= 10_f64.powi(last) * 1.001)
        .collect();
    // Those beyond the ends that are not next to them say nothing.
    while ticks.len() > 2 && ticks[1] <= low * 1.001 {
        ticks.remove(0);
    }
    while ticks.len() > 2 && ticks[ticks.len() - 2] >= high * 0.999 {
        ticks.pop();
    }
    ticks
}

/// As people write it: 0.25, 40, 10k, 2M.
fn tick_label(tick: f64) -> String {
    let (number, suffix) = match tick.abs() {
        size if size >= 1e9 * 0.999 => (tick / 1e9, "G"),
        size if size >= 1e6 * 0.999 => (tick / 1e6, "M"),
        size if size >= 1e4 * 0.999 => (tick / 1e3, "k"),
        _ => (tick, ""),
    };
    let text = format!("{number:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{suffix}", if text == "-0" { "0" } else { text })
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart {
    pub(crate) fn to_svg(&self) -> String {
        let fits = |&(x, y): &(f64, f64)| fits(x, self.x.scale) && fits(y, self.y.scale);
        let points = || self.series.iter().flat_map(|series| &series.points).copied().filter(fits);
        let x = Mapping::over(points().map(|point| point.0), self.x.scale, (LEFT, WIDTH - RIGHT), false);
        let y = Mapping::over(points().map(|point| point.1), self.y.scale, (HEIGHT - BOTTOM, TOP), true);
        let height = HEIGHT + LEGEND_LINE * self.series.len() as f64;
        let mut svg = String::new();
        let title = escape(&self.title);
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{title}" font-family="system-ui, sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{LEFT}" y="22" font-size="15" font-weight="600" fill="#222222">{title}</text>"##
        );
        self.draw_axes(&mut svg, &x, &y);
        for (index, series) in self.series.iter().enumerate() {
            let points: Vec<(f64, f64)> = series
                .points
                .iter()
                .filter(|point| fits(point))
                .map(|at| (x.pixel(at.0), y.pixel(at.1)))
                .collect();
            draw_series(&mut svg, series, index, &points);
            let at = HEIGHT + LEGEND_LINE * (index as f64 + 0.3);
            draw_series(&mut svg, series, index, &[(LEFT, at), (LEFT + 28.0, at)]);
            let _ = writeln!(
                svg,
                r##"<text x="{:.1}" y="{:.1}" fill="#222222">{}</text>"##,
                LEFT + 38.0,
                at + 4.0,
                escape(&series.label)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String, x: &Mapping, y: &Mapping) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in &x.ticks {
            let at = x.pixel(*tick);
            let _ = writeln!(
                svg,
                r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{bottom}" stroke="#eeeeee"/><text x="{at:.1}" y="{:.1}" text-anchor="middle" fill="#555555">{}</text>"##,
                bottom + 17.0,
                tick_label(*tick)
            );
        }
        for tick in &y.ticks {
            let at = y.pixel(*tick);
            let _ = writeln!(
                svg,
                r##"<line x1="{LEFT}" y1="{at:.1}" x2="{right}" y2="{at:.1}" stroke="#e4e4e4"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="#555555">{}</text>"##,
                LEFT - 8.0,
                at + 4.0,
                tick_label(*tick)
            );
        }
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888888"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#222222">{}</text>
<text transform="translate(16 {:.1}) rotate(-90)" text-anchor="middle" fill="#222222">{}</text>"##,
            (LEFT + right) / 2.0,
            bottom + 38.0,
            escape(&self.x.label),
            (TOP + bottom) / 2.0,
            escape(&self.y.label)
        );
    }
}

fn draw_series(svg: &mut String, series: &Series, index: usize, points: &[(f64, f64)]) {
    let colour = COLOURS[series.like.unwrap_or(index) % COLOURS.len()];
    let dashes = match series.style {
        Style::Measured => "",
        Style::Theory => r#" stroke-dasharray="6 4""#,
    };
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>"##,
        path.join(" ")
    );
    if series.style == Style::Theory {
        return;
    }
    for (x, y) in points {
        let _ = match index % 4 {
            0 => writeln!(svg, r##"<circle cx="{x:.1}" cy="{y:.1}" r="3.6" fill="{colour}"/>"##),
            1 => writeln!(
                svg,
                r##"<rect x="{:.1}" y="{:.1}" width="6.6" height="6.6" fill="{colour}"/>"##,
                x - 3.3,
                y - 3.3
            ),
            2 => writeln!(svg, r##"<path d="M{x:.1} {:.1}l4.2 7.4h-8.4z" fill="{colour}"/>"##, y - 4.4),
            _ => writeln!(
                svg,
                r##"<path d="M{x:.1} {:.1}l4.4 4.4l-4.4 4.4l-4.4-4.4z" fill="{colour}"/>"##,
                y - 4.4
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Scale, y: Scale, points: &[(f64, f64)]) -> String {
        Chart {
            title: "a < b".into(),
            x: Axis { label: "nodes".into(), scale: x },
            y: Axis { label: "latency (ms)".into(), scale: y },
            series: vec![
                Series { label: "chord".into(), style: Style::Measured, like: None, points: points.to_vec() },
                Series {
                    label: "½·log₂N".into(),
                    style: Style::Theory,
                    like: Some(0),
                    points: points.to_vec(),
                },
            ],
        }
        .to_svg()
    }

    /// The numbers of the n-th line drawn.
    fn line(svg: &str, index: usize) -> Vec<(f64, f64)> {
        let lines: Vec<&str> = svg.split("<polyline points=\"").skip(1).collect();
        let points = lines[index].split('"').next().expect("an end");
        let number = |text: &str| text.parse::<f64>().expect("a number");
        points
            .split_whitespace()
            .map(|at| at.split_once(',').expect("two"))
            .map(|(x, y)| (number(x), number(y)))
            .collect()
    }

    #[test]
    fn points_stand_where_their_axes_say() {
        // Three decades over 632 pixels; 0 to 10 over 308 upwards.
        let svg = chart(Scale::Logarithmic, Scale::Linear, &[(10.0, 0.0), (100.0, 5.0), (10_000.0, 10.0)]);
        assert_eq!(line(&svg, 0), [(72.0, 348.0), (282.7, 194.0), (704.0, 40.0)]);
        assert!(
            svg.contains(">10k</text>")
                && svg.contains(">nodes</text>")
                && svg.contains(">latency (ms)</text>")
        );
    }

    #[test]
    fn theory_is_dashed_and_has_no_points_and_both_are_in_the_legend() {
        let svg = chart(Scale::Linear, Scale::Linear, &[(1.0, 2.0), (2.0, 3.0)]);
        assert_eq!(svg.matches("stroke-dasharray").count(), 2, "its line, and its legend");
        assert_eq!(svg.matches(COLOURS[1]).count(), 0, "it has the colour of what it belongs to");
        assert_eq!(svg.matches("<circle").count(), 4, "two points, and two in the legend");
        assert!(svg.contains(">chord</text>") && svg.contains(">½·log₂N</text>"));
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }

    #[test]
    fn what_has_no_place_on_an_axis_is_left_out() {
        let svg = chart(Scale::Linear, Scale::Logarithmic, &[(1.0, 0.0), (2.0, 5.0), (3.0, f64::NAN)]);
        assert_eq!(line(&svg, 0).len(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let svg = chart(Scale::Logarithmic, Scale::Logarithmic, &[]);
        assert!(!svg.contains("NaN") && svg.contains("</svg>"));
    }

    #[test]
    fn ticks_are_round_numbers_around_all_points() {
        let rounded = |ticks: Vec<f64>| ticks.into_iter().map(tick_label).collect::<Vec<_>>();
        assert_eq!(rounded(linear_ticks(0.0, 0.8)), ["0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(rounded(linear_ticks(0.0, 9.7)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(rounded(logarithmic_ticks(100.0, 1e6)), ["100", "1000", "10k", "100k", "1M"]);
        assert_eq!(rounded(logarithmic_ticks(30.0, 60.0)), ["20", "50", "100"]);
        assert_eq!(rounded(logarithmic_ticks(1000.0, 1000.0)), ["1000", "2000"]);
    }
}
