// Type-checked by tests/ops/test_grafana.py: a dashboard's JSON, as literals, against the types that Grafana publishes.
// The file that the test adds calls `dashboard` and, for each panel, `panel` with options and custom fields of its kind.

import type { Dashboard } from '@grafana/schema';
import type * as bargauge from './node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as gauge from './node_modules/@grafana/schema/dist/types/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import type * as stat from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as states from './node_modules/@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as lines from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// enums as the strings or numbers that JSON has; everything else as it is
type Plain<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends Array<infer E>
      ? Array<Plain<E>>
      : T extends object
        ? { [K in keyof T]: Plain<T[K]> }
        : T;

type Kinds = {
  bargauge: { options: bargauge.Options; custom: Record<string, never> };
  gauge: { options: gauge.Options; custom: Record<string, never> };
  stat: { options: stat.Options; custom: Record<string, never> };
  'state-timeline': { options: states.Options; custom: states.FieldConfig };
  table: { options: table.Options; custom: table.FieldConfig };
  timeseries: { options: lines.Options; custom: lines.FieldConfig };
};

export function dashboard(_: Plain<Dashboard>): void {}
export function panel<K extends keyof Kinds>(
  _kind: K,
  _options: Plain<Kinds[K]['options']>,
  _custom: Plain<Partial<Kinds[K]['custom']>>
): void {}
