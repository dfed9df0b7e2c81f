//! Some sixty large cities, collected by hand, around which a population is placed.
//!
//! Positions are city centres to about a kilometre, inhabitants are those of urban areas in round
//! numbers of the early 2020s: a load needs plausible shapes, not a census.

use crate::place::Place;

/// A city around which devices are placed.
#[derive(Debug, Clone, Copy)]
pub struct City {
    /// English name of the city.
    pub name: &'static str,
    /// Latitude of the centre, degrees.
    pub latitude: f64,
    /// Longitude of the centre, degrees.
    pub longitude: f64,
    /// Inhabitants of the urban area, thousands.
    pub people_thousands: u32,
    /// Most frequent locale of phones in the city, BCP 47.
    pub locale: &'static str,
}

impl City {
    /// Returns the centre of the city.
    #[must_use]
    pub fn center(&self) -> Place {
        Place::new(self.latitude, self.longitude)
    }

    /// Returns how quickly density falls off: the `s` of exp(-distance / s), metres.
    ///
    /// Area grows about with inhabitants, so length with their root: 10 million give 9 km, which
    /// puts half of all within 15 km and 99 % within 60 km.
    #[must_use]
    pub fn scale_meters(&self) -> f64 {
        9_000.0 * (f64::from(self.people_thousands) / 10_000.0).sqrt()
    }
}

const fn city(
    name: &'static str,
    latitude: f64,
    longitude: f64,
    people_thousands: u32,
    locale: &'static str,
) -> City {
    City { name, latitude, longitude, people_thousands, locale }
}

/// Cities, those around the mouth of the Pearl River first.
pub const CITIES: &[City] = &[
    city("Shenzhen", 22.543, 114.058, 17_600, "zh-Hans-CN"),
    city("Guangzhou", 23.129, 113.264, 18_700, "zh-Hans-CN"),
    city("Dongguan", 23.021, 113.752, 10_500, "zh-Hans-CN"),
    city("Foshan", 23.022, 113.122, 9_500, "zh-Hans-CN"),
    city("Hong Kong", 22.302, 114.177, 7_400, "zh-Hant-HK"),
    city("Huizhou", 23.112, 114.416, 6_000, "zh-Hans-CN"),
    city("Zhongshan", 22.517, 113.393, 4_400, "zh-Hans-CN"),
    city("Jiangmen", 22.579, 113.082, 4_800, "zh-Hans-CN"),
    city("Zhuhai", 22.271, 113.577, 2_500, "zh-Hans-CN"),
    city("Macau", 22.199, 113.544, 680, "zh-Hant-MO"),
    city("Shanwei", 22.786, 115.375, 2_700, "zh-Hans-CN"),
    city("Heyuan", 23.744, 114.700, 2_800, "zh-Hans-CN"),
    city("Qingyuan", 23.682, 113.056, 4_000, "zh-Hans-CN"),
    city("Zhaoqing", 23.047, 112.465, 4_100, "zh-Hans-CN"),
    city("Shaoguan", 24.811, 113.597, 2_900, "zh-Hans-CN"),
    city("Shantou", 23.354, 116.682, 5_500, "zh-Hans-CN"),
    city("Shanghai", 31.230, 121.474, 24_900, "zh-Hans-CN"),
    city("Beijing", 39.904, 116.407, 21_900, "zh-Hans-CN"),
    city("Tianjin", 39.084, 117.201, 13_900, "zh-Hans-CN"),
    city("Chongqing", 29.563, 106.551, 16_900, "zh-Hans-CN"),
    city("Chengdu", 30.573, 104.066, 16_000, "zh-Hans-CN"),
    city("Wuhan", 30.593, 114.305, 12_300, "zh-Hans-CN"),
    city("Xi'an", 34.342, 108.940, 12_000, "zh-Hans-CN"),
    city("Hangzhou", 30.274, 120.155, 11_900, "zh-Hans-CN"),
    city("Nanjing", 32.060, 118.797, 9_300, "zh-Hans-CN"),
    city("Shenyang", 41.806, 123.432, 7_900, "zh-Hans-CN"),
    city("Harbin", 45.803, 126.535, 6_000, "zh-Hans-CN"),
    city("Kunming", 25.045, 102.710, 8_500, "zh-Hans-CN"),
    city("Urumqi", 43.826, 87.617, 4_100, "zh-Hans-CN"),
    city("Taipei", 25.033, 121.565, 7_000, "zh-Hant-TW"),
    city("Tokyo", 35.690, 139.692, 37_300, "ja-JP"),
    city("Osaka", 34.694, 135.502, 19_000, "ja-JP"),
    city("Seoul", 37.567, 126.978, 23_000, "ko-KR"),
    city("Manila", 14.600, 120.984, 24_000, "fil-PH"),
    city("Jakarta", -6.209, 106.846, 33_000, "id-ID"),
    city("Bangkok", 13.756, 100.502, 17_000, "th-TH"),
    city("Ho Chi Minh City", 10.777, 106.701, 14_000, "vi-VN"),
    city("Singapore", 1.352, 103.820, 5_900, "en-SG"),
    city("Delhi", 28.614, 77.209, 32_000, "hi-IN"),
    city("Mumbai", 19.076, 72.878, 24_000, "hi-IN"),
    city("Dhaka", 23.810, 90.413, 22_000, "bn-BD"),
    city("Karachi", 24.861, 67.010, 17_000, "ur-PK"),
    city("Tehran", 35.689, 51.389, 14_000, "fa-IR"),
    city("Istanbul", 41.008, 28.978, 15_800, "tr-TR"),
    city("Moscow", 55.756, 37.617, 17_300, "ru-RU"),
    city("Berlin", 52.520, 13.405, 4_700, "de-DE"),
    city("Paris", 48.857, 2.352, 11_200, "fr-FR"),
    city("London", 51.507, -0.128, 11_300, "en-GB"),
    city("Madrid", 40.417, -3.704, 6_700, "es-ES"),
    city("Rome", 41.903, 12.496, 4_300, "it-IT"),
    city("Stockholm", 59.329, 18.069, 1_700, "sv-SE"),
    city("Cairo", 30.044, 31.236, 22_000, "ar-EG"),
    city("Lagos", 6.524, 3.379, 16_000, "en-NG"),
    city("Kinshasa", -4.442, 15.266, 16_300, "fr-CD"),
    city("Nairobi", -1.292, 36.822, 5_300, "en-KE"),
    city("Johannesburg", -26.204, 28.047, 14_600, "en-ZA"),
    city("Sydney", -33.869, 151.209, 5_300, "en-AU"),
    city("Auckland", -36.848, 174.763, 1_700, "en-NZ"),
    city("New York", 40.713, -74.006, 19_500, "en-US"),
    city("Los Angeles", 34.052, -118.244, 13_000, "en-US"),
    city("Mexico City", 19.433, -99.133, 22_000, "es-MX"),
    city("Bogotá", 4.711, -74.072, 11_300, "es-CO"),
    city("Lima", -12.046, -77.043, 11_000, "es-PE"),
    city("São Paulo", -23.551, -46.633, 22_400, "pt-BR"),
    city("Buenos Aires", -34.604, -58.382, 15_400, "es-AR"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert!((55..=75).contains(&CITIES.len()), "{} cities", CITIES.len());
        let mut names: Vec<_> = CITIES.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CITIES.len(), "each once");
        for city in CITIES {
            assert!(city.center().is_valid() && city.people_thousands > 0, "{}", city.name);
            // RFC 5646: the longest tag in use here has language, script and region.
            assert!(city.locale.len() <= 10, "{}", city.name);
        }
    }

    #[test]
    fn neighbours_are_where_they_are() {
        let shenzhen = CITIES[0].center();
        let near =
            CITIES.iter().filter(|c| c.center().spherical_distance(shenzhen) < 120_000.0).count();
        assert!((8..=12).contains(&near), "{near} cities within 120 km of Shenzhen");
    }
}
