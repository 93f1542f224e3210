// What is drawn of points (step, value, seconds): placed on an axis, smoothed, and of several jobs the mean and the band.

// An exponential mean that begins without a bias towards zero (Kingma and Ba 2015, section 3).
export function smoothed(points, weight) {
  if (!weight) return points;
  let mean = 0;
  let sum = 0;
  return points.map(([x, value, step]) => {
    if (value === null) return [x, null, step];
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return [x, mean / sum, step];
  });
}

// Points (x, value, step) in the order of x. `by` are points (step, x) of what the axis shows, none for the step itself;
// "time" stands for the seconds that the points have.
export function placed(points, by) {
  if (!by) return points.map(([step, value]) => [step, value, step]);
  if (by === "time") return points.map(([step, value, seconds]) => [seconds, value, step]).sort((a, b) => a[0] - b[0]);
  const known = by.filter(([, x]) => typeof x === "number");
  return points.map(([step, value]) => [between(known, step), value, step]).filter(([x]) => x !== null);
}

// The value of points (x, value) at a place, on the line between its neighbours; null outside of them.
export function between(points, x) {
  let low = 0;
  let high = points.length - 1;
  if (high < 0 || x < points[0][0] || x > points[high][0]) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle;
    else high = middle;
  }
  const [[x0, y0], [x1, y1]] = [points[low], points[high]];
  return x1 === x0 ? y1 : y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
}

// The point that lies nearest to a place, where one lies within a distance; else undefined.
export function nearest(points, x, within) {
  let best;
  for (const point of points) if (point[1] !== null && (!best || Math.abs(point[0] - x) < Math.abs(best[0] - x))) best = point;
  return best && Math.abs(best[0] - x) <= within ? best : undefined;
}

// Of several curves of points (x, value): at every place of one of them the mean, the least and the greatest of those
// that reach there.
export function gathered(curves) {
  const good = curves.map((points) => points.filter(([, value]) => value !== null));
  const places = [...new Set(good.flatMap((points) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const found = { mean: [], least: [], greatest: [] };
  for (const x of places) {
    const values = good.map((points) => between(points, x)).filter((value) => value !== null);
    found.mean.push([x, values.reduce((sum, value) => sum + value, 0) / values.length, x]);
    found.least.push([x, Math.min(...values), x]);
    found.greatest.push([x, Math.max(...values), x]);
  }
  return found;
}

// Columns for the drawing: the places of all curves, and of each its values there.
export function aligned(curves) {
  const places = [...new Set(curves.flatMap((points) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const index = new Map(places.map((x, at) => [x, at]));
  const rows = curves.map((points) => {
    const values = new Array(places.length).fill(undefined);
    for (const [x, value] of points) values[index.get(x)] = value;
    return values;
  });
  return [places, ...rows];
}
