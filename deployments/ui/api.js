// The OpenAPI description of this server, readable and to be tried, without anything from outside.

/* global SwaggerUIBundle */
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  // Would send the description to a public validator.
  validatorUrl: null,
});
