//! The plan of a wave: from a cover to bands.

use clarion_coordinator::{
    bands::{BandEdges, plan_bands},
    cover::{CellBudget, cover},
};
use clarion_proto::region::{LatLng, Region};
use criterion::{Criterion, criterion_group, criterion_main};

fn plans(c: &mut Criterion) {
    let shenzhen = LatLng::new(22.543, 114.057).expect("a point");
    let mut group = c.benchmark_group("plan");
    group.sample_size(20);
    for km in [12u32, 120, 500] {
        let region = Region::circle(shenzhen, f64::from(km) * 1_000.0).expect("a circle");
        let cells = cover(&region, CellBudget::default()).expect("within the budget");
        let planned: usize = plan_bands(&cells, shenzhen, &BandEdges::default(), usize::MAX)
            .expect("no limit")
            .iter()
            .map(|b| b.cells.len())
            .sum();
        group.bench_function(format!("bands {km} km, {} to {planned} cells", cells.len()), |b| {
            b.iter(|| plan_bands(&cells, shenzhen, &BandEdges::default(), usize::MAX));
        });
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
