//! The scenarios that are built into the program, by name, in the order of `loadgen list`.

/// Name and text of each scenario.
pub(super) const NAMED: &[(&str, &str)] = &[
    ("city", include_str!("../../scenarios/city.toml")),
    ("city-far", include_str!("../../scenarios/city-far.toml")),
    ("shenzhen", include_str!("../../scenarios/shenzhen.toml")),
    ("antimeridian", include_str!("../../scenarios/antimeridian.toml")),
    ("pole", include_str!("../../scenarios/pole.toml")),
    ("polygon-hole", include_str!("../../scenarios/polygon-hole.toml")),
    ("slow-gateway", include_str!("../../scenarios/slow-gateway.toml")),
    ("silent-gateway", include_str!("../../scenarios/silent-gateway.toml")),
    ("cancel", include_str!("../../scenarios/cancel.toml")),
    ("motion", include_str!("../../scenarios/motion.toml")),
    ("watchers", include_str!("../../scenarios/watchers.toml")),
    ("quota", include_str!("../../scenarios/quota.toml")),
    ("failing-gateway", include_str!("../../scenarios/failing-gateway.toml")),
    ("quota-nodes", include_str!("../../scenarios/quota-nodes.toml")),
    ("faults", include_str!("../../scenarios/faults.toml")),
    ("fault-mixtures", include_str!("../../scenarios/fault-mixtures.toml")),
    ("restarts", include_str!("../../scenarios/restarts.toml")),
];
