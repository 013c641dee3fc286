'use strict';

// What a client saw, one JSON object a line.
exports.note = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
