"""Real outlines, with devices in and around some of them, judged by numpy and shapely.

Arguments: the folder of node modules, the number of outlines, the number of those with devices, a
file to write. The file has one JSON object a line: the outline as GeoJSON text, its datum, and for
some the devices, each with its place, whether the place is inside, and how many metres outside.

The outlines are public: counties and states of the U.S. Census Bureau (us-atlas), countries of
Natural Earth (world-atlas), with islands, poles and the antimeridian. They are read from packages
at run time and stay there.
"""

import json
import math
import pathlib
import random
import sys
from itertools import zip_longest

import numpy
import shapely

MODULES, COUNT, ALERTED, OUT = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
# Devices inside an outline: more than the 100 below which an audience is refused.
INSIDE = 130
# Devices near its rim, on both sides.
NEAR = 90
NEAR_METRES = 1_200.0


def topology(path):
    """The areas of a TopoJSON file, as GeoJSON geometries by name."""
    topo = json.loads((MODULES / path).read_text())
    (sx, sy), (tx, ty) = topo["transform"]["scale"], topo["transform"]["translate"]

    def line(arc):
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append([x * sx + tx, y * sy + ty])
        return points

    arcs = [line(arc) for arc in topo["arcs"]]

    def ring(numbers):
        points = []
        for number in numbers:
            arc = arcs[number] if number >= 0 else arcs[~number][::-1]
            points.extend(arc if not points else arc[1:])
        return points

    for name, layer in topo["objects"].items():
        for i, shape in enumerate(layer["geometries"]):
            label = f"{path}#{name}/{shape.get('id', i)}"
            if shape.get("type") == "Polygon":
                yield label, "Polygon", [ring(r) for r in shape["arcs"]]
            elif shape.get("type") == "MultiPolygon":
                yield label, "MultiPolygon", [[ring(r) for r in part] for part in shape["arcs"]]


def unwrapped(ring):
    """A ring of a globe as a ring of a map: without jumps, and by way of the pole that it goes around."""
    points = [list(ring[0])]
    for lng, lat in ring[1:]:
        points.append([lng - 360 * round((lng - points[-1][0]) / 360), lat])
    turn = points[-1][0] - points[0][0]
    if abs(turn) < 180:
        return points
    # From the antimeridian to the antimeridian, then along the pole.
    for i, ((x, y), (x2, y2)) in enumerate(zip(points, points[1:])):
        edge = 360 * math.floor((max(x, x2) + 180) / 360) - 180
        if min(x, x2) <= edge <= max(x, x2) and x != x2:
            lat = y + (y2 - y) * (edge - x) / (x2 - x)
            way = [[edge, lat], *points[i + 1 :], *([p[0] + turn, p[1]] for p in points[1 : i + 1])]
            way.append([edge + turn, lat])
            break
    pole = math.copysign(90, lat)
    way = [[p[0] - min(edge, edge + turn) - 180, p[1]] for p in way]
    return [*way, [way[-1][0], pole], [way[0][0], pole], way[0]]


def mapped(part):
    """A polygon of a globe as a polygon of a map: its holes are where its outer ring is."""
    rings = [unwrapped(ring) for ring in part]
    middle = (min(p[0] for p in rings[0]) + max(p[0] for p in rings[0])) / 2
    moved = lambda ring: 360 * round((middle - ring[0][0]) / 360)
    return [rings[0]] + [[[x + moved(ring), y] for x, y in ring] for ring in rings[1:]]


def gcj02(lat, lng):
    """The place as a map of mainland China shows it."""
    if not (72.004 <= lng <= 137.8347 and 0.8293 <= lat <= 55.8271):
        return lat, lng
    x, y, pi, sin = lng - 105.0, lat - 35.0, math.pi, math.sin
    both = (20 * sin(6 * x * pi) + 20 * sin(2 * x * pi)) * 2 / 3
    north = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * math.sqrt(abs(x)) + both
    north += (20 * sin(y * pi) + 40 * sin(y / 3 * pi)) * 2 / 3
    north += (160 * sin(y / 12 * pi) + 320 * sin(y * pi / 30)) * 2 / 3
    east = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * math.sqrt(abs(x)) + both
    east += (20 * sin(x * pi) + 40 * sin(x / 3 * pi)) * 2 / 3
    east += (150 * sin(x / 12 * pi) + 300 * sin(x / 30 * pi)) * 2 / 3
    a, ee = 6378245.0, 0.00669342162296594323
    magic = 1 - ee * sin(math.radians(lat)) ** 2
    lat_metres = a * (1 - ee) / (magic * math.sqrt(magic)) * pi / 180
    lng_metres = a / math.sqrt(magic) * math.cos(math.radians(lat)) * pi / 180
    return lat + north / lat_metres, lng + east / lng_metres


def metres_per_degree(lat):
    sin2 = math.sin(math.radians(lat)) ** 2
    a, e2 = 6378137.0, 0.00669437999014
    w = math.sqrt(1 - e2 * sin2)
    return a * (1 - e2) / w**3 * math.pi / 180, a / w * math.cos(math.radians(lat)) * math.pi / 180


class Judge:
    """What is inside an outline, and how far outside, on the outline's own map."""

    def __init__(self, shape, datum):
        self.shape, self.datum = shape, datum
        parts = shapely.get_parts(shape)
        rings = [numpy.asarray(r.coords) for p in parts for r in (p.exterior, *p.interiors)]
        self.a = numpy.concatenate([r[:-1] for r in rings])
        self.b = numpy.concatenate([r[1:] for r in rings])
        # The map's edge is no rim: the antimeridian between two parts or to a pole, and a pole.
        seam = (abs(self.a[:, 0]) == 180) & (abs(self.b[:, 0]) == 180)
        seam |= (abs(self.a[:, 1]) == 90) & (self.a[:, 1] == self.b[:, 1])
        self.a, self.b = self.a[~seam], self.b[~seam]
        shapely.prepare(shape)

    def of(self, lat, lng):
        if self.datum == "GCJ02":
            lat, lng = gcj02(lat, lng)
        if any(shapely.contains_xy(self.shape, lng + turn, lat) for turn in (-360, 0, 360)):
            return True, 0.0
        per_lat, per_lng = metres_per_degree(lat)
        turn = numpy.round((lng - self.a[:, 0]) / 360) * 360
        ax, bx = (self.a[:, 0] + turn - lng) * per_lng, (self.b[:, 0] + turn - lng) * per_lng
        ay, by = (self.a[:, 1] - lat) * per_lat, (self.b[:, 1] - lat) * per_lat
        dx, dy = bx - ax, by - ay
        square = numpy.maximum(dx * dx + dy * dy, 1e-12)
        share = numpy.clip(-(ax * dx + ay * dy) / square, 0, 1)
        return False, float(numpy.sqrt(numpy.min((ax + share * dx) ** 2 + (ay + share * dy) ** 2)))


def devices(judge, draw):
    west, south, east, north = judge.shape.bounds
    found = []

    def add(lat, lng):
        lng = (lng + 180) % 360 - 180
        inside, outside = judge.of(lat, lng)
        found.append([round(lat, 9), round(lng, 9), inside, round(outside, 3)])
        return inside

    inside = 0
    for _ in range(20_000):
        # Even on the globe, not on the map.
        lat = math.degrees(math.asin(draw.uniform(*(math.sin(math.radians(d)) for d in (south, north)))))
        lng = draw.uniform(west, east)
        if inside < INSIDE and shapely.contains_xy(judge.shape, lng, lat):
            inside += add(lat, lng)
    lengths = numpy.cumsum(numpy.hypot(*(judge.b - judge.a).T))
    for _ in range(NEAR):
        i = int(numpy.searchsorted(lengths, draw.uniform(0, lengths[-1])))
        i, share = min(i, len(judge.a) - 1), draw.random()
        lng, lat = judge.a[i] + share * (judge.b[i] - judge.a[i])
        if abs(lat) > 88:
            continue
        per_lat, per_lng = metres_per_degree(lat)
        reach = NEAR_METRES * draw.random() ** 2
        angle = draw.uniform(0, 2 * math.pi)
        add(lat + reach * math.sin(angle) / per_lat, lng + reach * math.cos(angle) / per_lng)
    return found


def spread(items, count):
    """So many of the items, from all parts of the list."""
    return [items[i * len(items) // count] for i in range(min(count, len(items)))]


def chosen(count):
    """Outlines of both sources in turn, first the difficult ones."""
    countries = [*topology("world-atlas/countries-10m.json")]
    # Poles, the antimeridian, many islands, holes, and Asia.
    difficult = ("/010", "/643", "/242", "/156", "/710", "/360", "/344", "/578", "/304", "/496")
    first = [o for number in difficult for o in countries if o[0].endswith(number)][: count // 4]
    others = spread([o for o in countries if o not in first], max(0, count // 2 - len(first)))
    counties = [*topology("us-atlas/counties-10m.json")]
    counties = spread(counties, count - len(first) - len(others))
    pairs = zip_longest(first + others, counties)
    return [outline for pair in pairs for outline in pair if outline]


def areas(shape):
    """What is left of a repaired outline: its polygons."""
    parts = [p for p in shapely.get_parts(shapely.make_valid(shape)) if p.geom_type.endswith("Polygon")]
    return shapely.union_all(parts)


def feature(name, geometry):
    return json.dumps({"type": "Feature", "properties": {"name": name}, "geometry": geometry})


def main():
    draw = random.Random(13)
    outlines = chosen(COUNT)
    alerted = 0
    with open(OUT, "w", encoding="utf-8") as out:
        for i, (name, kind, coordinates) in enumerate(outlines):
            coordinates = mapped(coordinates) if kind == "Polygon" else [mapped(p) for p in coordinates]
            geometry = {"type": kind, "coordinates": coordinates}
            try:
                shape = shapely.from_geojson(json.dumps(geometry))
            except shapely.errors.GEOSException:
                continue  # a ring of two points
            if not shape.is_valid:
                # As published, and what is left of it without loops.
                published = {"name": f"{name} as published", "valid": False, "datum": "WGS84"}
                out.write(json.dumps(published | {"geojson": feature(name, geometry)}) + "\n")
                shape = areas(shape)
                if shape.is_empty:
                    continue
                geometry = json.loads(shapely.to_geojson(shape))
            west, south, east, north = shape.bounds
            in_asia = 72.1 < west and east < 137.7 and 0.9 < south and north < 55.7
            told = {"name": name, "valid": True, "datum": "GCJ02" if in_asia else "WGS84"}
            told["geojson"] = feature(name, geometry)
            if i * ALERTED >= alerted * len(outlines) and alerted < ALERTED:
                judged = devices(Judge(shape, told["datum"]), draw)
                # An island of some hundred metres has no room for its devices.
                if sum(device[2] for device in judged) >= INSIDE:
                    alerted += 1
                    told["devices"] = judged
            out.write(json.dumps(told) + "\n")
    print(json.dumps({"alerted": alerted}))


main()
