//! Cover of a region by cells: the work is proportional to the rim.

use clarion_coordinator::cover::{CellBudget, cover};
use clarion_proto::region::{LatLng, Region};
use criterion::{Criterion, criterion_group, criterion_main};

fn covers(c: &mut Criterion) {
    let shenzhen = LatLng::new(22.543, 114.057).expect("a point");
    let mut group = c.benchmark_group("cover");
    group.sample_size(20);
    for km in [1u32, 12, 120, 500] {
        let region = Region::circle(shenzhen, f64::from(km) * 1_000.0).expect("a circle");
        let cells = cover(&region, CellBudget::default()).expect("within the budget").len();
        group.bench_function(format!("circle {km} km, {cells} cells"), |b| {
            b.iter(|| cover(&region, CellBudget::default()));
        });
    }
    group.finish();
}

criterion_group!(benches, covers);
criterion_main!(benches);
