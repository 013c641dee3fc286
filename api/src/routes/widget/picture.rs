//! The widget as a picture: the guild's name and who is there, in letters of eight pixels.

use font8x8::legacy::BASIC_LEGACY;

/// Pixels of a letter's side, before it is enlarged.
const LETTER: usize = 8;
const BACK: [u8; 3] = [0x2B, 0x2D, 0x31];
const TEXT: [u8; 3] = [0xF2, 0xF3, 0xF5];
const DIM: [u8; 3] = [0x94, 0x9B, 0xA4];
const GREEN: [u8; 3] = [0x23, 0xA5, 0x5A];

/// All there are, as an error names them.
pub(super) const STYLES: &str = "('shield', 'banner1', 'banner2', 'banner3', 'banner4')";

/// What it looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// One line: how many are there.
    #[default]
    Shield,
    /// Name and number, in one of four sizes.
    Banner(u8),
}

impl Style {
    pub(super) fn parse(style: &str) -> Option<Self> {
        Some(match style {
            "shield" => Self::Shield,
            "banner1" => Self::Banner(1),
            "banner2" => Self::Banner(2),
            "banner3" => Self::Banner(3),
            "banner4" => Self::Banner(4),
            _ => return None,
        })
    }
}

struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        let pixels = BACK.repeat(width * height);
        Self {
            width,
            height,
            pixels,
        }
    }

    fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), color: [u8; 3]) {
        for y in y..(y + height).min(self.height) {
            for x in x..(x + width).min(self.width) {
                let at = (y * self.width + x) * 3;
                if let Some(pixel) = self.pixels.get_mut(at..at + 3) {
                    pixel.copy_from_slice(&color);
                }
            }
        }
    }

    /// Letters outside of ASCII show as a question mark; what does not fit is cut off.
    fn write(&mut self, (x, y): (usize, usize), text: &str, scale: usize, color: [u8; 3]) {
        for (n, letter) in text.chars().enumerate() {
            let left = x + n * LETTER * scale;
            if left + LETTER * scale > self.width {
                return;
            }
            let letter = if letter.is_ascii_graphic() || letter == ' ' {
                letter
            } else {
                '?'
            };
            let rows = BASIC_LEGACY
                .get(letter as usize)
                .copied()
                .unwrap_or_default();
            for (row, bits) in rows.into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits & 1 << column != 0) {
                    let at = (left + column * scale, y + row * scale);
                    self.fill(at, (scale, scale), color);
                }
            }
        }
    }

    fn png(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&self.pixels))
            .expect("memory takes every byte, and there are three for each pixel");
        out
    }
}

/// The picture as PNG.
pub(super) fn png(style: Style, name: &str, present: u64) -> Vec<u8> {
    let online = format!("{present} ONLINE");
    let mut canvas;
    match style {
        Style::Shield => {
            canvas = Canvas::new(28 + online.len() * LETTER, 20);
            canvas.fill((6, 6), (LETTER, LETTER), GREEN);
            canvas.write((20, 6), &online, 1, TEXT);
        }
        Style::Banner(size) => {
            let (height, scale) = match size {
                1 | 2 => (76, 2),
                3 => (100, 2),
                _ => (180, 3),
            };
            canvas = Canvas::new(320, height);
            let letter = LETTER * scale;
            canvas.write((16, height / 2 - letter - 4), name, scale, TEXT);
            canvas.fill((16, height / 2 + 8), (LETTER, LETTER), GREEN);
            canvas.write((30, height / 2 + 8), &online, 1, DIM);
        }
    }
    canvas.png()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_is_a_picture_whatever_the_name() {
        let long = "ü".repeat(100);
        for style in ["shield", "banner1", "banner2", "banner3", "banner4"] {
            for name in ["Hall", "", &long] {
                let png = png(Style::parse(style).unwrap(), name, u64::MAX);
                let decoder = png::Decoder::new(std::io::Cursor::new(&png));
                let info = decoder.read_info().unwrap();
                assert!(info.info().width >= 36 && info.info().height >= 20);
            }
        }
        assert_eq!(Style::parse("banner5"), None);
    }
}
