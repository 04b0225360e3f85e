#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes C tables (see schema.h) of a schema in QAPI syntax; or, for the relay (owned.h), what QEMU
would say of the commands that only farfault has.

Usage: generate.py SCHEMA OUTPUT.c [own]

The subset understood: enum, struct, union (flat), alternate, command and event; 'base' as an
in-line object; features and conditions are not used here. Arrays of arrays are an addition.
"""

import ast
import json
import re
import sys

BUILTIN = {
    'int': ('INT', 64), 'int8': ('INT', 8), 'int16': ('INT', 16), 'int32': ('INT', 32),
    'int64': ('INT', 64), 'uint8': ('UINT', 8), 'uint16': ('UINT', 16), 'uint32': ('UINT', 32),
    'uint64': ('UINT', 64), 'size': ('UINT', 64), 'number': ('NUMBER', 0), 'bool': ('BOOL', 0),
    'str': ('STR', 0), 'null': ('NULL', 0), 'any': ('ANY', 0),
}


def strip_comments(text):
    """Removes '#' comments; strings of a schema hold no '#'."""
    return re.sub(r'#[^\n]*', '', text)


def expressions(text):
    """Yields the top-level objects of the schema, in order."""
    depth, start = 0, 0
    for i, c in enumerate(text):
        if c == '{':
            if depth == 0:
                start = i
            depth += 1
        elif c == '}':
            depth -= 1
            if depth == 0:
                source = re.sub(r'\btrue\b', 'True', text[start:i + 1])
                yield ast.literal_eval(re.sub(r'\bfalse\b', 'False', source))
    if depth:
        sys.exit('unbalanced braces in the schema')


def c_name(name):
    return re.sub(r'[^A-Za-z0-9]', '_', name)


class Generator:
    def __init__(self):
        self.out = []
        self.known = set()
        self.arrays = set()
        self.commands = []
        self.events = []

    def emit(self, line):
        self.out.append(line)

    def type_ref(self, t):
        """The C expression of a type; arrays are made when first used."""
        if isinstance(t, list):
            inner = self.type_ref(t[0])
            name = inner[len('&type_'):] + '_array'
            if name not in self.arrays:
                self.arrays.add(name)
                self.emit(f'static const FfQapiType type_{name} = {{ .name = "array", '
                          f'.kind = FF_QAPI_ARRAY, .element = {inner} }};')
            return '&type_' + name
        if t not in self.known and t not in BUILTIN:
            sys.exit(f"type '{t}' is used before it is defined")
        return '&type_' + c_name(t)

    def members(self, name, data):
        rows = []
        for key, t in data.items():
            optional = key.startswith('*')
            rows.append('    { "%s", %s, %s },' % (key.lstrip('*'), self.type_ref(t),
                                                   'true' if optional else 'false'))
        self.emit(f'static const FfQapiMember members_{name}[] = {{')
        self.out.extend(rows)
        self.emit('    { NULL, NULL, false },')
        self.emit('};')

    def define(self, name):
        if name in self.known or name in BUILTIN:
            sys.exit(f"type '{name}' is defined twice")
        self.known.add(name)
        return c_name(name)

    def enum(self, e):
        values = ', '.join('"%s"' % v for v in e['data'])
        c = self.define(e['enum'])
        self.emit(f'static const char *const values_{c}[] = {{ {values}, NULL }};')
        self.emit(f'static const FfQapiType type_{c} = {{ .name = "{e["enum"]}", '
                  f'.kind = FF_QAPI_ENUM, .values = values_{c} }};')

    def struct(self, e):
        c = c_name(e['struct'])
        self.members(c, e['data'])
        self.define(e['struct'])
        self.emit(f'static const FfQapiType type_{c} = {{ .name = "{e["struct"]}", '
                  f'.kind = FF_QAPI_STRUCT, .members = members_{c} }};')

    def union(self, e):
        c = c_name(e['union'])
        self.members(c, e['base'])
        rows = ['    { "%s", %s, false },' % (k, self.type_ref(t)) for k, t in e['data'].items()]
        self.emit(f'static const FfQapiMember branches_{c}[] = {{')
        self.out.extend(rows)
        self.emit('    { NULL, NULL, false },')
        self.emit('};')
        self.define(e['union'])
        self.emit(f'static const FfQapiType type_{c} = {{ .name = "{e["union"]}", '
                  f'.kind = FF_QAPI_UNION, .members = members_{c}, .branches = branches_{c}, '
                  f'.discriminator = "{e["discriminator"]}" }};')

    def alternate(self, e):
        c = c_name(e['alternate'])
        self.members(c, e['data'])
        self.define(e['alternate'])
        self.emit(f'static const FfQapiType type_{c} = {{ .name = "{e["alternate"]}", '
                  f'.kind = FF_QAPI_ALTERNATE, .members = members_{c} }};')

    def payload(self, name, e):
        """The struct type of a command's arguments or an event's data."""
        data = e.get('data', {})
        if isinstance(data, str):
            return self.type_ref(data)
        c = 'arg_' + c_name(name)
        self.members(c, data)
        self.emit(f'static const FfQapiType type_{c} = {{ .name = "{name}", '
                  f'.kind = FF_QAPI_STRUCT, .members = members_{c} }};')
        return '&type_' + c

    def command(self, e):
        name = e['command']
        args = self.payload(name, e)
        returns = self.type_ref(e['returns']) if 'returns' in e else 'NULL'
        self.commands.append('    { "%s", %s, %s, %s, %s },' % (
            name, args, returns, 'true' if e.get('allow-oob') else 'false',
            'true' if e.get('gen', True) is False else 'false'))

    def event(self, e):
        name = e['event']
        self.events.append('    { "%s", %s },' % (name, self.payload(name, e)))

    def run(self, text):
        for name, (kind, bits) in BUILTIN.items():
            self.emit(f'G_GNUC_UNUSED static const FfQapiType type_{name} = {{ .name = "{name}", '
                      f'.kind = FF_QAPI_{kind}, .bits = {bits} }};')
        for e in expressions(strip_comments(text)):
            handlers = [h for h in ('enum', 'struct', 'union', 'alternate', 'command', 'event')
                        if h in e]
            if len(handlers) != 1:
                sys.exit(f'what is this? {e}')
            getattr(self, handlers[0])(e)
        self.emit('const FfQapiCommand ff_qapi_commands[] = {')
        self.out.extend(self.commands)
        self.emit('    { NULL, NULL, NULL, false, false },')
        self.emit('};')
        self.emit('const FfQapiEvent ff_qapi_events[] = {')
        self.out.extend(self.events)
        self.emit('    { NULL, NULL },')
        self.emit('};')


OWN = 'x-farfault-'
EMPTY = OWN + 'empty'


class Introspection:
    """The entries of query-qmp-schema for what begins with OWN. QEMU's types have numbers there, ours
    their names."""

    def __init__(self, text):
        self.entries = [{'name': EMPTY, 'meta-type': 'object', 'members': []}]
        self.types = {}
        self.done = set()
        self.commands = []
        for e in expressions(strip_comments(text)):
            for kind in ('enum', 'struct'):
                if kind in e:
                    self.types[e[kind]] = e
            if e.get('command', '').startswith(OWN):
                self.commands.append(e)
        for e in self.commands:
            self.command(e)

    def type_name(self, t):
        if isinstance(t, list):
            element = self.type_name(t[0])
            name = f'[{element}]'
            if t[0] not in BUILTIN and name not in self.done:
                self.done.add(name)
                self.entries.append({'name': name, 'meta-type': 'array', 'element-type': element})
            return name
        if t in BUILTIN:
            return 'int' if BUILTIN[t][0] in ('INT', 'UINT') else t
        if t not in self.done:
            self.done.add(t)
            self.define(self.types[t])
        return t

    def define(self, e):
        if 'enum' in e:
            self.entries.append({'name': e['enum'], 'meta-type': 'enum', 'values': e['data'],
                                 'members': [{'name': v} for v in e['data']]})
        else:
            self.object(e['struct'], e['data'])

    def object(self, name, data):
        members = []
        for key, t in data.items():
            member = {'name': key.lstrip('*'), 'type': self.type_name(t)}
            if key.startswith('*'):
                member['default'] = None
            members.append(member)
        self.entries.append({'name': name, 'meta-type': 'object', 'members': members})

    def command(self, e):
        arguments = EMPTY
        if e.get('data'):
            arguments = e['command'] + '-arg'
            self.object(arguments, e['data'])
        self.entries.append({
            'name': e['command'], 'meta-type': 'command', 'arg-type': arguments,
            'ret-type': self.type_name(e['returns']) if 'returns' in e else EMPTY})

    @staticmethod
    def text(name, objects):
        """A C string: each as JSON, with a comma."""
        rows = ['    ' + json.dumps(json.dumps(o) + ', ') for o in objects]
        return f'const char {name}[] =\n' + '\n'.join(rows) + ';\n'

    def source(self):
        return (self.text('ff_own_names', [{'name': e['command']} for e in self.commands]) +
                self.text('ff_own_schema', self.entries))


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    with open(sys.argv[1], encoding='utf-8') as f:
        text = f.read()
    if sys.argv[3:] == ['own']:
        header, source = 'guest/relay/routing.h', Introspection(text).source()
    else:
        generator = Generator()
        generator.run(text)
        header, source = 'qapi/schema.h', '\n'.join(generator.out) + '\n'
    with open(sys.argv[2], 'w', encoding='utf-8') as f:
        f.write('/* Made by generate.py from farfault.json. */\n')
        f.write(f'#include "{header}"\n\n{source}')


main()
