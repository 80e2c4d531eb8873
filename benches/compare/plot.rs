//! Draws the ratios as an SVG: grouped horizontal bars on a logarithmic scale.

use std::fmt::Write;

use crate::contender::Kind;
use crate::report::{Report, ratio_text};

const LEFT: f64 = 250.0;
const WIDTH: f64 = 560.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 64.0;
const BAR: f64 = 9.0;
const GAP: f64 = 10.0;

/// The range of the scale; values outside are drawn at its end.
const MIN: f64 = 0.005;
const MAX: f64 = 2.0;
const MARKS: [f64; 8] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// The bar's colour, from Okabe and Ito's palette for colour-blind readers.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Source => "#000000",
        Kind::Idmapped => "#999999",
        Kind::Bindfs => "#e69f00",
        Kind::BindfsThreads => "#d55e00",
        Kind::FuseOverlayfs => "#56b4e9",
        Kind::ShiftbindKernel => "#009e73",
        Kind::Shiftbind => "#0072b2",
    }
}

fn x(ratio: f64) -> f64 {
    let part = (ratio.clamp(MIN, MAX) / MIN).ln() / (MAX / MIN).ln();
    LEFT + WIDTH * part
}

/// The whole SVG.
pub fn svg(report: &Report) -> String {
    let contenders: Vec<(usize, Kind)> =
        report.contenders.iter().copied().enumerate().skip(1).collect();
    let group = contenders.len() as f64 * BAR + GAP;
    let bottom = TOP + report.rows.len() as f64 * group;
    let (width, height) = (LEFT + WIDTH + RIGHT, bottom + 46.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>Speed as a ratio to the bare source</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let _ = writeln!(
        svg,
        "<text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">Speed as a ratio to the bare source \
         (longer is better; logarithmic)</text>"
    );
    let mut at = 12.0;
    for (_, kind) in &contenders {
        let _ = writeln!(
            svg,
            "<rect x=\"{at:.0}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{}\"/>\
             <text x=\"{:.0}\" y=\"46\">{}</text>",
            colour(*kind),
            at + 16.0,
            kind.name(),
        );
        at += 40.0 + 7.0 * kind.name().len() as f64;
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{:.0} 35v13\" stroke=\"#cc0000\" stroke-width=\"2\"/>\
         <text x=\"{:.0}\" y=\"46\">shiftbind's goal</text>",
        at + 4.0,
        at + 14.0,
    );
    for mark in MARKS {
        let stroke = if mark == 1.0 { "#000000" } else { "#dddddd" };
        let _ = writeln!(
            svg,
            "<path d=\"M{0:.1} {TOP}V{bottom:.1}\" stroke=\"{stroke}\"/>\
             <text x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"middle\">{mark}</text>",
            x(mark),
            bottom + 16.0,
        );
    }
    for (row, top) in report.rows.iter().zip((0..).map(|i| TOP + f64::from(i) * group + GAP / 2.0))
    {
        let bars = contenders.len() as f64 * BAR;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            top + bars / 2.0 + 4.0,
            escaped(row.name),
        );
        let mut labels = String::new();
        for ((which, kind), y) in contenders.iter().zip((0..).map(|i| top + f64::from(i) * BAR)) {
            let Some(ratio) = row.ratio(*which) else { continue };
            let text = ratio_text(ratio.value);
            let end = x(ratio.value);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\">\
                 <title>{}, {}: {text}</title></rect>",
                (end - LEFT).max(1.0),
                BAR - 1.0,
                colour(*kind),
                escaped(row.name),
                kind.name(),
            );
            let _ = writeln!(
                labels,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" stroke=\"#ffffff\" stroke-width=\"2\" \
                 paint-order=\"stroke\">{text}</text>",
                end + 3.0,
                y + BAR - 2.0,
            );
        }
        if let Some(goal) = row.goal {
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {top:.1}v{bars:.1}\" stroke=\"#cc0000\" stroke-width=\"2\"/>",
                x(goal),
            );
        }
        // Drawn last, so that the goal's line does not cross the digits.
        svg.push_str(&labels);
    }
    let _ = writeln!(
        svg,
        "<text x=\"12\" y=\"{:.1}\" font-size=\"10\" fill=\"#555555\">{}</text>\n</svg>",
        bottom + 36.0,
        escaped(&report.conditions),
    );
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
