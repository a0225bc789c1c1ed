//! A matrix of bandwidths as a picture.

use super::pairs::Matrix;
use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Side of one cell, and room for the title and the ranks' numbers, in pixels.
const CELL: u32 = 64;
const MARGIN: u32 = 64;

/// Draws the matrix as SVG: rows send, columns receive, the darker the faster.
pub(super) fn svg(matrix: &Matrix, title: &str) -> Result<String> {
    let side = MARGIN + CELL * matrix.ranks() + MARGIN / 2;
    // A title is wider than two cells.
    let width = side.max(9 * title.len() as u32);
    let mut text = String::new();
    draw(matrix, title, SVGBackend::with_string(&mut text, (width, side)).into_drawing_area())
        .map_err(|error| anyhow!("cannot draw the heat map: {error}"))?;
    Ok(text)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(matrix: &Matrix, title: &str, area: DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn {
    area.fill(&WHITE)?;
    let label = |size: i32| ("sans-serif", size).into_font();
    area.draw_text(title, &label(16).into(), (8, 8))?;
    let largest = matrix.cells().map(|(_, _, pair)| pair.bandwidth).fold(0.0, f64::max);
    let at = |place: u32| (MARGIN + place * CELL) as i32;
    for rank in 0..matrix.ranks() {
        let (middle, edge) = (at(rank) + CELL as i32 / 2, MARGIN as i32 - 20);
        area.draw_text(&rank.to_string(), &label(14).into(), (middle - 4, edge))?;
        area.draw_text(&rank.to_string(), &label(14).into(), (edge, middle - 7))?;
    }
    for (from, to, pair) in matrix.cells() {
        let share = if largest > 0.0 { pair.bandwidth / largest } else { 0.0 };
        let (left, top) = (at(to), at(from));
        let corners = [(left, top), (left + CELL as i32 - 2, top + CELL as i32 - 2)];
        area.draw(&Rectangle::new(corners, shade(share).filled()))?;
        let color = if share > 0.5 { &WHITE } else { &BLACK };
        let (bandwidth, latency) = (format!("{:.2}", pair.bandwidth), format!("{:.1} us", pair.latency_us));
        area.draw_text(&bandwidth, &label(14).color(color), (left + 8, top + 14))?;
        area.draw_text(&latency, &label(11).color(color), (left + 8, top + 36))?;
    }
    area.present()?;
    Ok(())
}

/// From nearly white to dark blue.
fn shade(share: f64) -> RGBColor {
    let mix = |light: f64, dark: f64| (light + (dark - light) * share.clamp(0.0, 1.0)) as u8;
    RGBColor(mix(240.0, 8.0), mix(246.0, 48.0), mix(252.0, 107.0))
}
